#!/usr/bin/env bash
# lvd serve beside nbdkit's file plugin: requests a second of fio over a Unix socket; jobs beside nbdcopy; in turns.
#
#   benches/nbd.sh [ROUNDS [SECONDS [JOB...]]]        (3 rounds of 4 seconds; all jobs)
#
# Files of 256 MiB in $TMPDIR, warm in the page cache. LVD names the command (default: target/release/lvd).
set -euo pipefail

rounds=${1:-3}
seconds=${2:-4}
shift $(($# < 2 ? $# : 2))
lvd=$(realpath "${LVD:-$(dirname "$0")/../target/release/lvd}")
work=$(mktemp -d "${TMPDIR:-/tmp}/lvd-nbd.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

dd if=/dev/urandom of=disk.raw bs=1M count=256 status=none
"$lvd" convert -q -f raw disk.raw disk.lvd
cat disk.raw disk.lvd >/dev/null

# Requests a second of one job. fio says first where it is connected, and only then speaks JSON.
cat >job <<'END'
fio --name=job --ioengine=nbd --uri="$1" --size=256M --time_based --runtime="$2" --output-format=json "${@:3}" |
    sed -n '/^{/,$p' |
    python3 -c 'import json, sys
job = json.load(sys.stdin)["jobs"][0]
print(round(job["read"]["iops"] + job["write"]["iops"]))'
END

run() {
    local server=$1 job=$2
    # nbdkit sets $uri in the shell; it does not export it.
    local command="bash $work/job \"\$uri\" $seconds $job"
    case $server in
    complete) "$lvd" serve disk.lvd --run "$command" ;;
    overlay)
        "$lvd" create -b disk.lvd top.lvd
        "$lvd" serve top.lvd --run "$command"
        rm top.lvd
        ;;
    nbdkit) nbdkit -U - file disk.raw --run "$command" ;;
    esac
}

# A server of lvd, and what fio does.
jobs=(
    "complete --rw=read --bs=1M --iodepth=4"
    "complete --rw=randread --bs=4k --iodepth=16"
    "complete --rw=randwrite --bs=4k --iodepth=16"
    "overlay --rw=randwrite --bs=4k --iodepth=16 --fsync=32"
)
if [ $# -gt 0 ]; then jobs=("$@"); fi
printf '%-58s %10s %10s %6s\n' "requests a second" lvd nbdkit ratio
for job in "${jobs[@]}"; do
    read -r server arguments <<<"$job"
    for ((round = 0; round < rounds; round++)); do
        ours=$(run "$server" "$arguments")
        theirs=$(run nbdkit "$arguments")
        awk -v job="$job" -v a="$ours" -v b="$theirs" 'BEGIN { printf "%-58s %10d %10d %6.2f\n", job, a, b, a / b }'
    done
done

# Jobs as a whole, in seconds: ours against nbdcopy's.
seconds_of() {
    local begun=$EPOCHREALTIME
    "$@" >/dev/null
    awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f", b - a }'
}

compare() {
    awk -v job="$1" -v a="$2" -v b="$3" 'BEGIN { printf "%-58s %10.3f %10.3f %6.2f\n", job, a, b, b / a }'
}

printf '\n%-58s %10s %10s %6s\n' "seconds" lvd peer ratio
for ((round = 0; round < rounds; round++)); do
    # shellcheck disable=SC2016
    copy='nbdcopy "$uri" null:'
    compare "nbdcopy to nowhere (nbdkit)" "$(seconds_of "$lvd" serve disk.lvd --run "$copy")" \
        "$(seconds_of nbdkit -U - file disk.raw --run "$copy")"
done
for delay in 1 5; do
    nbdkit -r -U "$work/far$delay" -P "$work/pid" --filter=delay file disk.raw rdelay=${delay}ms
    uri="nbd+unix:///?socket=$work/far$delay"
    for ((round = 0; round < rounds; round++)); do
        "$lvd" create -b "$uri" -F raw top.lvd
        ours=$(seconds_of "$lvd" stream -q --remote top.lvd)
        # As durable as what is streamed.
        theirs=$(seconds_of nbdcopy --flush "$uri" copy.raw)
        rm top.lvd copy.raw
        compare "stream of a parent $delay ms away (nbdcopy)" "$ours" "$theirs"
    done
    kill "$(cat "$work/pid")"
done
