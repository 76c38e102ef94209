#!/usr/bin/env python3
"""Turns files into seeds for the target `open`: `seeds.py [IMAGE...]`, without arguments the vectors of testdata/.

A seed describes a file by its length and its sectors that are not zero; src/testing/hostile/describe.rs has the
format, testdata/README.md that of the vectors.
"""

import hashlib
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
SECTOR = 512
# A piece says how many bytes it has in 16 bits, and its place in 32.
LONGEST = (1 << 16) // SECTOR - 1
FARTHEST = 1 << 32
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
    """The same of every image, sidecar and group file in testdata/."""
    testdata = HERE.parent / "testdata"
    for entry in json.loads((testdata / "manifest.json").read_text())["vectors"]:
        path = testdata / entry["path"]
        for file in json.loads(path.read_text())["files"]:
            if file["role"] in ("image", "sidecar", "group"):
                dump = path.with_name(file["dump"]).read_text() if file.get("dump") else ""
                yield file["length"], from_dump(dump)


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


def main(arguments):
    files = [from_image(pathlib.Path(argument)) for argument in arguments] or from_vectors()
    corpus = HERE / "corpus" / "open"
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = {seed(length, sectors) for length, sectors in files}
    small = [content for content in seeds if len(content) <= LARGEST]
    for content in small:
        (corpus / hashlib.sha1(content).hexdigest()).write_bytes(content)
    print(f"{len(small)} seeds in {corpus}, {len(seeds) - len(small)} too large")


main(sys.argv[1:])
