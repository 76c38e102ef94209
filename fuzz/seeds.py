#!/usr/bin/env python3
"""Turns images into seeds for the target `open`: `seeds.py [IMAGE...]`, without arguments all of testdata/.

A seed describes a file by its length and its sectors that are not zero; src/testing/hostile.rs has the format.
"""

import hashlib
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
SECTOR = 512
SUFFIXES = {".lvd", ".lvb"}
# Larger inputs slow the fuzzer down more than they tell it.
LARGEST = 256 << 10


def pieces(path):
    """The runs of sectors of a file that hold anything: (number of the first sector, bytes)."""
    start, run = 0, b""
    with open(path, "rb") as file:
        number = 0
        while sector := file.read(SECTOR):
            if any(sector) and len(run) + SECTOR < 1 << 16:
                if not run:
                    start = number
                run += sector
            else:
                if run:
                    yield start, run
                start, run = (number, sector) if any(sector) else (0, b"")
            number += 1
    if run:
        yield start, run


def seed(path):
    out = b"\x00" + path.stat().st_size.to_bytes(8, "little")
    for start, run in pieces(path):
        if start < 1 << 32:
            out += start.to_bytes(4, "little") + len(run).to_bytes(2, "little") + run
    return out


def main(arguments):
    images = [pathlib.Path(argument) for argument in arguments]
    if not images:
        images = sorted(path for path in (HERE.parent / "testdata").rglob("*") if path.suffix in SUFFIXES)
    corpus = HERE / "corpus" / "open"
    corpus.mkdir(parents=True, exist_ok=True)
    written = 0
    for image in images:
        # Vectors of huge disks are sparse files; reading all of one would take long.
        if image.stat().st_blocks * 512 > LARGEST or image.stat().st_size > 64 << 20:
            print(f"skipped, too large: {image}")
            continue
        content = seed(image)
        if len(content) > LARGEST:
            print(f"skipped, too large: {image}")
            continue
        (corpus / hashlib.sha1(content).hexdigest()).write_bytes(content)
        written += 1
    print(f"{written} seeds in {corpus}")


main(sys.argv[1:])
