#!/usr/bin/env python3
"""Turns files into seeds: `seeds.py [IMAGE...]`, without arguments the vectors of testdata/.

| target | a seed is | described in |
|---|---|---|
| `open` | the length of a file, and its sectors that are not zero | src/testing/hostile/describe.rs |
| `header` | a header slot | src/testing/hostile/header.rs |
| `foreign` | a QED image | src/testing/qed.rs |

The other targets make all that they need. Those whose inputs are stories begin with long ones of random bytes, which a
fuzzer that begins with nothing takes long to come to. testdata/README.md has the format of the vectors.
"""

import hashlib
import json
import pathlib
import random
import sys

HERE = pathlib.Path(__file__).resolve().parent
SECTOR = 512
# A piece says how many bytes it has in 16 bits, and its place in 32.
LONGEST = (1 << 16) // SECTOR - 1
FARTHEST = 1 << 32
SLOT = 65536
# The first byte of an input of `header` and `foreign` that is followed by bytes as they are in the file.
RAW = b"\x80"
QED = b"QED\0"
STORIES = ("chain", "crash", "jobs", "live", "operations", "pages", "sidecar")
# Larger inputs slow the fuzzer down more than they tell it.
LARGEST = 256 << 10


def from_image(path):
    """The length of a file, and its sectors that hold anything by their numbers."""
    if path.stat().st_size > 64 << 20:
        raise SystemExit(f"too large for a seed: {path}")
    content = path.read_bytes()
    starts = range(0, len(content), SECTOR)
    return len(content), {at // SECTOR: content[at : at + SECTOR] for at in starts if any(content[at : at + SECTOR])}


def from_vectors():
    """The same of every image, sidecar and group file in testdata/, and of what is a QED image there."""
    testdata = HERE.parent / "testdata"
    for entry in json.loads((testdata / "manifest.json").read_text())["vectors"]:
        path = testdata / entry["path"]
        for file in json.loads(path.read_text())["files"]:
            sectors = from_dump(path.with_name(file["dump"]).read_text() if file.get("dump") else "")
            if file["role"] in ("image", "sidecar", "group") or sectors.get(0, b"").startswith(QED):
                yield file["length"], sectors


def from_dump(text):
    sectors = {}
    for line in text.splitlines():
        at, _, digits = line.partition(":")
        for offset, byte in enumerate(bytes.fromhex(digits), int(at, 16)):
            sectors.setdefault(offset // SECTOR, bytearray(SECTOR))[offset % SECTOR] = byte
    return sectors


def seed(length, sectors):
    """The description of a file. Neighbouring sectors make one piece."""
    out = bytearray(1) + length.to_bytes(8, "little")
    numbers = sorted(number for number in sectors if number < FARTHEST)
    while numbers:
        count = 1
        while count < min(len(numbers), LONGEST) and numbers[count] == numbers[0] + count:
            count += 1
        run = b"".join(sectors[number] for number in numbers[:count])
        out += numbers[0].to_bytes(4, "little") + len(run).to_bytes(2, "little") + run
        del numbers[:count]
    return bytes(out)


def content(length, sectors, start, end):
    """The bytes of a file from `start` to `end`, without the zeros at the end."""
    out = bytearray(max(0, min(length, end) - start))
    for number, sector in sectors.items():
        at = number * SECTOR - start
        if 0 <= at < len(out):
            out[at : at + SECTOR] = sector[: len(out) - at]
    return bytes(out)


def seeds(files):
    """For each target the seeds of all files."""
    made = {"open": set(), "header": set(), "foreign": set()}
    for length, sectors in files:
        start = content(length, sectors, 0, LARGEST + 1)
        if start.startswith(QED):
            made["foreign"].add(RAW + start)
            continue
        made["open"].add(seed(length, sectors))
        for place in (0, SLOT):
            made["header"].add(RAW + content(length, sectors, place, place + SLOT).rstrip(b"\0"))
    return made


def stories():
    """Random bytes, the same each time."""
    source = random.Random(1)
    return {source.randbytes(source.randrange(100, 1000)) for _ in range(100)}


def main(arguments):
    files = [from_image(pathlib.Path(argument)) for argument in arguments] or from_vectors()
    for target, inputs in (seeds(files) | dict.fromkeys(STORIES, stories())).items():
        corpus = HERE / "corpus" / target
        corpus.mkdir(parents=True, exist_ok=True)
        small = [given for given in inputs if len(given) <= LARGEST]
        for given in small:
            (corpus / hashlib.sha1(given).hexdigest()).write_bytes(given)
        print(f"{target}: {len(small)} seeds in {corpus}, {len(inputs) - len(small)} too large")


main(sys.argv[1:])
