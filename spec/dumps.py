#!/usr/bin/env python3
"""Annotates the files of dumps.md, byte by byte.

    dumps.py            writes the dumps of the page anew
    dumps.py --check    fails if the page has others

The bytes are those of conformance vectors. What they are called and what they mean is read from the tables of the
pages, so that the page cannot say anything else than these. A dump stands in the page below a line

    <!-- dump: VECTOR FILE -->
"""

import argparse
import functools
import itertools
import json
import pathlib
import re
import sys
import textwrap
import uuid
from collections import namedtuple

HERE = pathlib.Path(__file__).parent
TESTDATA = HERE.parent / "testdata"
PAGE = HERE / "dumps.md"
SLOT, SECTOR, SECTOR_BITS, ROW = 65536, 512, 3968, 8
MARKER = re.compile(r"(<!-- dump: (\S+) (\S+) -->\n\n```text\n).*?(```\n)", re.S)

Field = namedtuple("Field", "offset size kind name meaning")


def cells(line):
    return [cell.strip() for cell in line.strip("|\n").split("|")]


def tables():
    """Return the structures of the pages, {name: fields}, and {type: name} of the records."""
    structures, types = {}, {}
    for page in sorted(HERE.glob("*.md")):
        for part in page.read_text().split("\n### Table: ")[1:]:
            name, _, rest = part.partition("\n")
            lines = itertools.takewhile(lambda line: line.startswith("|"), rest.strip().split("\n"))
            rows = [cells(line) for line in lines][2:]
            structures[name] = [Field(int(row[0]), int(row[1]), *row[2:5]) for row in rows]
        for rows in re.findall(r"^\| type \| record \|.*\n\|[-|]*\n((?:\|.*\n)*)", page.read_text(), re.M):
            types.update((int(row[0]), row[1]) for row in map(cells, rows.splitlines()))
    return structures, types


STRUCTURES, RECORD_TYPES = tables()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def number(data):
    return int.from_bytes(data, "little")


def text(data):
    return '"' + data.decode("latin-1").encode("unicode_escape").decode() + '"'


def value(field, data):
    """Return what the bytes of a field are, in the words of its table."""
    meaning = field.meaning.replace("`", "").split(";")[0]
    if field.kind == "uuid":
        return "nil" if not any(data) else str(uuid.UUID(bytes=data))
    if field.kind.startswith("u8["):
        return "zeros" if not any(data) else text(data)
    named = number(data)
    if field.name == "record_type":
        return f"{named}: {RECORD_TYPES.get(named, 'unknown')}"
    # "1 image, 2 sidecar", "0 closed, 1 filling, 2 writing", "bit 0: required; bit 1: ..."
    words = dict(re.findall(r"(?:^|, )(\d+) ([a-z0-9]+)", meaning))
    if words:
        return f"{named}: {words.get(str(named), 'unknown')}"
    if bits := re.findall(r"bit (\d+): ([^;|]+)", field.meaning):
        return ", ".join([str(named)] + [name for bit, name in bits if named >> int(bit) & 1])
    if meaning == str(named):
        return meaning
    place = f" = {named:#x}" if "offset" in meaning else ""
    return f"{named}{place}: {meaning}"


class Dump:
    """The lines of an annotated file."""

    def __init__(self, vector_name, file_name):
        entries = json.loads((TESTDATA / "manifest.json").read_text())["vectors"]
        path = TESTDATA / next(entry["path"] for entry in entries if entry["name"] == vector_name)
        file = next(file for file in json.loads(path.read_text())["files"] if file["name"] == file_name)
        self.data, self.lines, self.at = bytearray(file["length"]), [], 0
        for line in (path.parent / file["dump"]).read_text().splitlines():
            offset, digits = line.split(": ")
            self.data[int(offset, 16):int(offset, 16) + len(digits) // 2] = bytes.fromhex(digits)

    def heading(self, words):
        self.lines += ["", words]

    def line(self, offset, shown, name="", meaning=""):
        first, *more = textwrap.wrap(meaning, 66) or [""]
        self.lines.append(f"{offset:08x}  {shown:<23}  {name:<17}  {first}".rstrip())
        self.lines += [" " * 54 + words for words in more]

    def fold(self, end, words):
        """One line for all up to `end`."""
        if self.at < end:
            self.lines.append(f"…         {words}, up to {end:08x}")
        self.at = end

    def gap(self, end):
        assert not any(self.data[self.at:end]), f"bytes at {self.at:#x} that nothing explains"
        self.fold(end, "zeros")

    def field(self, size, name, meaning):
        """Rows of up to 8 bytes. Rows like the one before are folded, and so is a field of zeros."""
        data, begin, before = self.data[self.at:self.at + size], self.at, None
        if size > ROW and not any(data):
            self.line(begin, "00 … 00", name, meaning)
        else:
            rows = [data[at:at + ROW] for at in range(0, size, ROW)]
            for alike, group in itertools.groupby(enumerate(rows), key=lambda row: row[1]):
                first, count = next(group)[0], 1 + sum(1 for _ in group)
                is_begin = first == 0
                self.line(begin + first * ROW, alike.hex(" "), name if is_begin else "", meaning if is_begin else "")
                if count > 1:
                    self.lines.append(f"…         {'zeros' if not any(alike) else 'the same'}")
        self.at += size

    def structure(self, name, notes=()):
        """The fields of a structure, and their values. `notes` is what is to be said of a field instead."""
        start, found = self.at, {}
        for field in STRUCTURES[name]:
            data = bytes(self.data[start + field.offset:start + field.offset + field.size])
            found[field.name] = number(data) if field.kind in ("u8", "u16", "u32", "u64") else data
            self.field(field.size, field.name, dict(notes).get(field.name) or value(field, data))
        return found

    def slot(self, at):
        """A slot by its tables, as far as it goes. Return its sections, or None if it is torn."""
        covered = bytearray(self.data[at:at + number(self.data[at + 12:at + 16])])
        said, covered[16:20] = number(covered[16:20]), bytes(4)
        is_right = crc32c(covered) == said
        checksum = f"{said:#010x}, " + ("right" if is_right else f"wrong: of these bytes it is {crc32c(covered):#010x}")
        self.heading(f"header slot {at // SLOT}: " + ("whole" if is_right else "torn, which the checksum tells"))
        header = self.structure("Header", {"checksum": checksum})
        sections = []
        for count in range(1, header["record_count"] + 1):
            self.heading(f"record {count} of {header['record_count']}")
            head = self.structure("Record")
            end = self.at + head["length"]
            if name := RECORD_TYPES.get(head["record_type"]):
                found = self.structure(name.capitalize())
                if name == "section":
                    sections.append(found)
                if self.at < end:
                    payload = bytes(self.data[self.at:end])
                    self.field(len(payload), "name" if name == "bitmap" else "hint", text(payload))
            else:
                self.field(end - self.at, "payload", "not known here, and kept (REC-13)")
            if -end % 8:
                self.field(-end % 8, "padding", "zeros")
        return header, sections if is_right else None

    def section(self, section):
        kind = next(field for field in STRUCTURES["Section"] if field.name == "kind")
        name = value(kind, section["kind"].to_bytes(2, "little")).split(": ")[1]
        granule = 1 << section["granularity_shift"]
        self.heading(f"{name} section {section['id'].hex()[:8]}…, granules of {granule} bytes")
        needed, last = -(-section["covered"] // (granule * SECTOR_BITS)), section["length"] // SECTOR - 1
        for index in range(needed):
            self.sector(section, index)
        assert not any(self.data[self.at:section["offset"] + section["length"]])
        self.fold(section["offset"] + section["length"], f"sectors {needed} to {last}: not needed, and zeros")

    def sector(self, section, index):
        sector = self.data[self.at:self.at + SECTOR]
        if not any(sector):
            self.fold(self.at + SECTOR, f"sector {index}: empty, all bits clear")
            return
        payload = number(sector[:496])
        is_set = [index * SECTOR_BITS + bit for bit in range(SECTOR_BITS) if payload >> bit & 1]
        is_right = crc32c(section["id"] + sector[:508]) == number(sector[508:])
        self.structure("Sealed sector", {
            "bits": f"set: {', '.join(map(str, is_set)) or 'none'}",
            "checksum": f"{number(sector[508:]):#010x}, {'right' if is_right else 'wrong'}: of the id and 508 bytes"})

    def present(self, section, block):
        """Is a block of the disk in this file?"""
        if not section:
            return True
        index, bit = divmod(block, SECTOR_BITS)
        return self.data[section["offset"] + index * SECTOR + bit // 8] >> bit % 8 & 1

    def disk(self, header, allocation):
        """The data area: of each block how it begins."""
        self.heading("data area")
        granule = 1 << allocation["granularity_shift"] if allocation else header["virtual_size"] or 1
        ends = [header["data_offset"] + min(at, header["virtual_size"])
                for at in range(granule, header["virtual_size"] + granule, granule)]

        def look(block):
            """Blocks that look alike and are zeros go into one line."""
            begin = ends[block - 1] if block else header["data_offset"]
            return self.present(allocation, block), block if any(self.data[begin:ends[block]]) else None

        for (is_present, shown), group in itertools.groupby(range(len(ends)), key=look):
            blocks = list(group)
            first, last = blocks[0], blocks[-1]
            what = "guest bytes" if is_present else "absent: nobody is shown this (ALC-04)"
            name = "the disk" if not allocation else f"block {first}" if first == last else f"blocks {first} to {last}"
            if shown is None:
                self.fold(ends[last], f"{name}, zeros, {what}")
            else:
                self.field(min(2 * ROW, ends[last] - self.at), name, what)
                self.fold(ends[last], f"more of {name}")

    def whole(self):
        """Return the lines of the file."""
        header, sections = self.slot(0)
        self.gap(SLOT)
        length, both = header["header_length"], [self.data[at:at + 65536] for at in (0, SLOT)]
        if both[0] == both[1]:
            self.heading(f"header slot 1: the same {length} bytes")
            self.fold(2 * SLOT, "see slot 0, then zeros")
        else:
            newer, more = self.slot(SLOT)
            if more is not None and (sections is None or newer["sequence"] > header["sequence"]):
                header, sections = newer, more
            self.gap(2 * SLOT)
        places = [(section["offset"], functools.partial(self.section, section)) for section in sections]
        allocation = next((section for section in sections if section["kind"] == 1), None)
        if header["kind"] == 1 and header["virtual_size"]:
            places.append((header["data_offset"], functools.partial(self.disk, header, allocation)))
        for offset, annotate in sorted(places, key=lambda place: place[0]):
            self.gap(offset)
            annotate()
        self.gap(len(self.data))
        return self.lines[1:] + [f"{len(self.data):08x}  end of the file"]


def main():
    parser = argparse.ArgumentParser(description="Annotates the dumps of dumps.md.")
    parser.add_argument("--check", action="store_true", help="fail if the page has others")
    check = parser.parse_args().check
    old = PAGE.read_text()
    new = MARKER.sub(lambda m: m[1] + "\n".join(Dump(m[2], m[3]).whole()) + "\n" + m[4], old)
    if check and new != old:
        sys.exit("dumps.md is not what dumps.py makes of the vectors and tables")
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
