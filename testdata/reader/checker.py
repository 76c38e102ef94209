#!/usr/bin/env python3
"""A checker for LVD virtual disks, version 1, written from the specification alone.

    checker.py FILE [--volume FILE]

It reads both header slots and every sector that holds bits, and goes on after a broken rule as far as that makes
sense (format.md, section 10). The volume is that of a sidecar. The answer is one JSON object on standard output:

    result      how an open would end, as far as this file says: ok, damaged, invalid, unsupported or refused; error if
                nothing is broken as far as the host lets it be read
    rules       the rules that are broken, each once
    broken      each breach of a rule that refuses the file, or costs a part of its disk
    unreadable  which sectors of which section cannot be read, and the stretch of the disk that they speak of
    told        what is worth knowing and no damage of the disk: skipped slots, marks, bitmaps that are not exact

The exit status is 1 if a rule is broken. Nothing is ever written.
"""

import argparse
import os
import sys
from collections import namedtuple
from contextlib import ExitStack

import reader
from reader import (ALLOCATION, CLOSED, COPY_MARK, GROUP_MARK, HOST, IN_GROUP, INTENT, LVD, MERGE_MARK, NIL, PAGE,
                    PARENT, RAW, SEAL, SECTION, SECTIONS, SECTOR, SECTOR_BITS, SLOT, STATES, Refusal, bit_count,
                    needed_sectors, printed, read_header, read_slot, unseal)

# Sectors [first, end) of a section cannot be read: they are bad (PAG-01), or the host fails to read them (PAG-08).
Unreadable = namedtuple("Unreadable", "section kind first end offset disk rule why")
Remark = namedtuple("Remark", "rule message")


def check(file, volume=None):
    """Return what is to be said of a file, and of its volume."""
    header, flaws = read_header(file)
    if header and volume:
        flaws += judge_volume(header, volume)
    unreadable, told = [], list(slot_remarks(file)) if header else []
    if header and all(flaw.result != "unsupported" for flaw in flaws):
        for section in header.records[SECTION]:
            unreadable += unreadable_sectors(file, header, section)
        told += header_remarks(header)
        if not flaws:
            told += bitmap_remarks(file, header, volume)
    broken = [Remark(flaw.rule, flaw.message) for flaw in flaws]
    broken += [Remark("PAG-01", f"sectors {stretch.first} to {stretch.end - 1} at {stretch.offset}: {stretch.why}")
               for stretch in unreadable if (stretch.kind, stretch.rule) == ("allocation", "PAG-01")]
    is_failing = any(stretch.rule == "PAG-08" for stretch in unreadable)
    return {"result": flaws[0].result if flaws else "damaged" if broken else "error" if is_failing else "ok",
            "rules": list(dict.fromkeys(remark.rule for remark in broken)),
            "broken": [remark._asdict() for remark in broken],
            "unreadable": [stretch._asdict() for stretch in unreadable],
            "told": [remark._asdict() for remark in told]}


def judge_volume(header, volume):
    host = header.first(HOST)
    return reader.broken(
        ("SID-05", not host or host.format != RAW, "the file is not the sidecar of a volume"),
        ("SID-02", host and host.format == RAW and volume.length < host.length, f"{volume.path} is too short"))


# Sections


def unreadable_sectors(file, header, section):
    """Yield what cannot be read of the sectors that hold bits of a section, in runs as long as possible."""
    end = section.offset + section.length
    has_place = section.offset % PAGE == 0 and 2 * SLOT <= section.offset and end <= 1 << 61
    if section.kind not in SECTIONS or not has_place or section.shift > 48:
        return                                          # SEC-01 to SEC-03 say so
    size = header.virtual_size if section.kind == ALLOCATION else section.covered
    runs = []
    for number, end, *reason in bad_sectors(file, section):
        if runs and runs[-1][1:] == (number, reason):
            number = runs.pop()[0]
        runs.append((number, end, reason))
    for first, end, reason in runs:
        disk = [min(number * SECTOR_BITS << section.shift, size) for number in (first, end)]
        yield Unreadable(printed(section.id), SECTIONS[section.kind], first, end, section.offset + first * SECTOR,
                         disk, *reason)


def bad_sectors(file, section):
    """Yield the first one, the end, the rule and the reason of runs of sectors that cannot be read."""
    number, needed = 0, min(needed_sectors(section), section.length // SECTOR)
    while number < needed:
        offset = section.offset + number * SECTOR       # of a page
        if offset + PAGE > file.length:
            yield number, needed, "PAG-01", "the file ends there"                           # BMP-05
            return
        end = min(number + PAGE // SECTOR, needed)
        try:
            page = file.read(offset, PAGE)
            for place in range(number, end):
                sector = page[(place - number) * SECTOR:][:SECTOR]
                if unseal(section, place, sector) is None:
                    yield place, place + 1, "PAG-01", why_bad(place, sector)
        except OSError as error:
            yield number, end, "PAG-08", os.strerror(error.errno)
        number = (file.next_data(offset + PAGE) - section.offset) // PAGE * (PAGE // SECTOR)


def why_bad(number, sector):
    """Say what is wrong with a sector (PAG-01)."""
    index, marker, _ = SEAL.unpack_from(sector, 496)
    return "no marker" if marker != b"SEAL" else "another index" if index != number else "a wrong checksum"


# What is no damage of the disk


def slot_remarks(file):
    slots = [read_slot(file, offset) for offset in (0, SLOT)]
    for number, slot in enumerate(slots):
        if slot is None or isinstance(slot, Refusal):
            yield Remark("HDR-17", f"slot {number} is skipped: {slot.message if slot else 'it is empty'}")
    sequences = [slot.sequence for slot in slots if isinstance(slot, reader.Header)]
    if len(set(sequences)) > 1:
        yield Remark("HDR-19", f"slot {sequences.index(min(sequences))} is older: an update was interrupted")


def header_remarks(header):
    link = header.first(PARENT)
    marks = [(MERGE_MARK, "CHN-04", "it is being merged into"),
             (COPY_MARK, "CHN-06", "it is not a whole copy yet"),
             (GROUP_MARK, "GRP-06", "it is in a group, and may have moved")]
    unknown = header.ro_compat & ~IN_GROUP
    wrong_identity = link and (link.format == LVD) != (link.uuid != NIL)
    yield from (Remark(rule, message) for rule, is_so, message in [
        ("ORD-20", header.state != CLOSED, f"the last session was not closed: {STATES.get(header.state)}"),
        ("HDR-09", unknown, f"unknown features {unknown:#x}: not to be opened for writing"),
        *((rule, header.first(mark), message) for mark, rule, message in marks),
        ("CHN-07", wrong_identity, "no parent matches: those of format lvd have an identity, others none"),
    ] if is_so)


def bitmap_remarks(file, header, volume):
    """Say what keeps bitmaps from telling of changes exactly."""
    intents = next((section for section in header.records[SECTION] if section.kind == INTENT), None)
    if intents and bit_count(intents) > 65536:
        yield Remark("INT-02", "the intent section has too many bits to be read")
    for name, rule in header.bitmaps()[1]:
        yield Remark(rule, f"{name!r} is no bitmap")
    former = header.first(HOST).former if volume and header.state == CLOSED else NIL
    has_changed = former != NIL and former != volume.fingerprint()
    if has_changed:
        yield Remark("EPO-07", "the volume was changed behind the sidecar's back")
    for bitmap in reader.told(file, header, header.virtual_size, has_changed):
        if bitmap.trust != "valid":
            rule = "BMP-08" if bitmap.state == "frozen" else "BMP-06" if bitmap.trust == "stale" else "BMP-07"
            yield Remark(rule, f"bitmap {bitmap.name!r}: {bitmap.trust.replace('_', ' ')}")


def main():
    parser = argparse.ArgumentParser(description="Report all rules that an LVD file breaks.")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--volume", metavar="FILE")
    args = parser.parse_args()
    with ExitStack() as files:
        def opened(path):
            file = reader.File(path)
            files.callback(os.close, file.fd)
            return file
        return reader.tell(lambda: check(opened(args.file), args.volume and opened(args.volume)))


if __name__ == "__main__":
    sys.exit(main())
