#!/usr/bin/env python3
"""What a guest keeps of its writes while its disk is mirrored: lvd serve beside qemu-storage-daemon, in turns.

    benches/mirror.py [ROUNDS [SECONDS [MIB]]]        (3 rounds, 8 seconds, 1024 MiB)

fio writes 4 KiB at random, 16 at a time, over a Unix socket, to a disk of MIB in $TMPDIR; first alone for half of SECONDS,
then, for SECONDS, beside a mirror to a file or, of lvd, to an export of a second `lvd serve`. A row: the writes a second
alone and meanwhile, their ratio, when the mirror was ready, and MiB that were left to copy when the guest stopped. LVD
names the command (default: target/release/lvd).
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROUNDS, SECONDS, MIB = (int(value) for value in (sys.argv[1:] + ["3", "8", "1024"][len(sys.argv) - 1:])[:3])
HERE = pathlib.Path(__file__).resolve().parent
LVD = os.environ.get("LVD", str(HERE.parent / "target/release/lvd"))
EXPORT = "disk"


class Monitor:
    """A client of QMP."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, name, **arguments):
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise RuntimeError(f"{name}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def job(self):
        return self.ask("query-block-jobs")[0]


def until(path):
    end = time.monotonic() + 10
    while not os.path.exists(path):
        if time.monotonic() > end:
            sys.exit(f"{path}: nobody listens")
        time.sleep(0.01)


def fio(sock, seconds):
    """Writes a second."""
    uri = f"nbd+unix:///{EXPORT}?socket={sock}"
    command = ["fio", "--name=load", "--ioengine=nbd", f"--uri={uri}", f"--size={MIB}M", "--rw=randwrite", "--bs=4k",
               "--iodepth=16", "--time_based", f"--runtime={seconds}", "--output-format=json", "--randrepeat=0"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(text[text.index("{"):])["jobs"][0]["write"]["iops"]


def measure(sock, control, begin):
    monitor = Monitor(control)
    alone = fio(sock, max(1, SECONDS // 2))
    told = []
    load = threading.Thread(target=lambda: told.append(fio(sock, SECONDS)))
    load.start()
    time.sleep(0.3)
    start, ready, lag = time.monotonic(), None, 0
    begin(monitor)
    while load.is_alive():
        job = monitor.job()
        if ready is None and job["ready"]:
            ready = time.monotonic() - start
        if ready is not None:
            lag = max(lag, job["len"] - job["offset"])
        time.sleep(0.05)
    left = monitor.job()
    load.join()
    return alone, told[0], ready, lag / 2**20, (left["len"] - left["offset"]) / 2**20


def lvd(work, remote):
    run = lambda *arguments: subprocess.run([LVD, *arguments], check=True, cwd=work)
    run("convert", "-q", "-f", "raw", "disk.raw", "disk.lvd")
    servers = []

    def serve(name, *arguments):
        servers.append(subprocess.Popen([LVD, "serve", "--unix", f"{name}.nbd", "-x", EXPORT, *arguments], cwd=work))
        until(work / f"{name}.nbd")

    serve("source", "--control", "control", "disk.lvd")
    target = {"target": "copy.lvd"}
    if remote:
        with open(work / "copy.raw", "wb") as file:
            file.truncate(MIB << 20)
        serve("target", "-f", "raw", "copy.raw")
        target = {"target": f"nbd+unix:///{EXPORT}?socket={work / 'target.nbd'}", "format": "raw"}
    begin = lambda monitor: monitor.ask("drive-mirror", device=EXPORT, sync="full", **target)
    try:
        return measure(work / "source.nbd", str(work / "control"), begin)
    finally:
        for server in servers:
            server.terminate()
            server.wait()


def qemu(work, mode):
    for name in ("disk.qcow2", "copy.qcow2"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", name, f"{MIB}M"], check=True, cwd=work)
    subprocess.run(["qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2"], check=True, cwd=work)
    arguments = ["--chardev", "socket,id=m,path=control,server=on,wait=off", "--monitor", "m",
                 "--nbd-server", "addr.type=unix,addr.path=source.nbd"]
    for node, name in (("s", "disk.qcow2"), ("d", "copy.qcow2")):
        arguments += ["--blockdev", f"qcow2,node-name={node},file.driver=file,file.filename={name}"]
    arguments += ["--export", f"nbd,id=e,node-name=s,name={EXPORT},writable=on"]
    server = subprocess.Popen(["qemu-storage-daemon", *arguments], cwd=work)
    until(work / "source.nbd")
    begin = lambda monitor: monitor.ask("blockdev-mirror", job_id="m", device="s", target="d", sync="full", copy_mode=mode)
    try:
        return measure(work / "source.nbd", str(work / "control"), begin)
    finally:
        server.kill()
        server.wait()


def main():
    contestants = [("lvd, to a file", lambda work: lvd(work, False)), ("lvd, over NBD", lambda work: lvd(work, True))]
    if shutil.which("qemu-storage-daemon"):
        contestants += [("qemu, background", lambda work: qemu(work, "background")),
                        ("qemu, write-blocking", lambda work: qemu(work, "write-blocking"))]
    else:
        print("skipped: qemu-storage-daemon, which is not here")
    print(f"{'':22} {'alone/s':>8} {'beside/s':>8} {'ratio':>6} {'ready s':>8} {'lag MiB':>8} {'left MiB':>8}")
    for _ in range(ROUNDS):
        for name, contestant in contestants:
            with tempfile.TemporaryDirectory(prefix="lvd-mirror.") as work:
                work = pathlib.Path(work)
                with open(work / "disk.raw", "wb") as file:
                    for _ in range(MIB):
                        file.write(os.urandom(1 << 20))
                alone, beside, ready, lag, left = contestant(work)
                ready = f"{ready:8.2f}" if ready is not None else "   never"
                print(f"{name:22} {alone:8.0f} {beside:8.0f} {beside / alone:6.2f} {ready} {lag:8.1f} {left:8.1f}", flush=True)


main()
