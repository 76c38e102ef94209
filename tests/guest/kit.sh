#!/bin/sh
# Makes in directory $1 what the guest of these tests boots from: vmlinuz, and initrd.gz with `init`, both out of Debian
# packages of which nothing is installed. What was downloaded (28 MB) stays in $1.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"

# Lists of its own: those of the machine may be missing, or name packages that are no longer offered.
download() {
    mkdir -p lists/partial cache/archives/partial
    options="-qq -o Dir::State::lists=$PWD/lists -o Dir::Cache=$PWD/cache -o APT::Sandbox::User="
    apt-get $options update
    kernel=$(apt-cache $options depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
    apt-get $options download "$kernel" busybox-static dmsetup libdevmapper1.02.1
    # As on systems with a merged /usr, which the packages of some releases expect and those of others do not.
    mkdir -p root/usr/bin root/usr/sbin root/usr/lib
    ln -s usr/bin usr/sbin usr/lib root
    for package in *.deb; do dpkg -x "$package" root; done
    root/bin/busybox depmod -b root "$(ls root/lib/modules)"
    rm -r lists cache ./*.deb
}

if [ ! -d packages ]; then
    new=$(mktemp -d "$PWD/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    (cd "$new" && download)
    # Whoever makes the same at the same time is as good.
    mv -T "$new" packages || [ -d packages ]
fi

root=$PWD/packages/root
tree=$(mktemp -d "$PWD/tree.XXXXXX")
trap 'rm -rf "$tree" "${new:-}"' EXIT
for directory in bin sbin dev etc mnt proc run sys tmp; do mkdir "$tree/$directory"; done
cp "$root/bin/busybox" "$tree/bin/"
ln -s busybox "$tree/bin/sh"
install -m 755 "$here/init" "$tree/init"

# Modules, with all that they need.
release=$(ls "$root/lib/modules")
modules=$root/lib/modules/$release
mkdir -p "$tree/lib/modules/$release"
cp "$modules/modules.dep" "$tree/lib/modules/$release/"
for name in virtio_pci virtio_blk ext4 dm-log-writes; do
    for file in $(sed -n "s,:, ,; s,^\([^ ]*/\)\?$name\.ko,&,p" "$modules/modules.dep"); do
        (cd "$modules" && cp --parents "$file" "$tree/lib/modules/$release/")
    done
done

# Commands, with the libraries that the loader of this system finds for them.
for command in "$(command -v e2fsck || echo /sbin/e2fsck)" "$root/sbin/dmsetup"; do
    cp "$command" "$tree/sbin/"
    for library in $(LD_LIBRARY_PATH=$root/lib/x86_64-linux-gnu ldd "$command" | grep -o '/[^ ]*'); do
        target=$tree${library#"$root"}
        mkdir -p "$(dirname "$target")"
        cp -L "$library" "$target"
    done
done

initrd=$(mktemp "$PWD/initrd.XXXXXX")
(cd "$tree" && find . | "$root/bin/busybox" cpio -o -H newc -R 0:0 2>/dev/null) | gzip -1 >"$initrd"
mv "$initrd" initrd.gz
cp "$root/boot/vmlinuz-$release" "$tree/vmlinuz"
mv "$tree/vmlinuz" vmlinuz
