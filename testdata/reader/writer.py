"""A writer for LVD virtual disks, version 1, written from the specification alone.

A `Description` says what a file holds, in the words of the tables of format.md and bitmaps.md: headers with their
records, the set bits of each section, guest data. `compose` makes all bytes of the file from it, and `create` makes
the file:

    section = Section(ALLOCATION, 12, 40000, bits=[(0, 3)])
    header = Header(40000, [section, Parent(RAW, 40000, hint="base.raw")])
    create("overlay.lvd", new_file(header, {0: b"bytes 0 to 12287 of the disk lie here"}))

Identifiers such as HDR-05 are rules of format.md, bitmaps.md and ordering.md.
"""

import os
import uuid
from dataclasses import dataclass, field
from typing import Optional

import reader
from reader import (ALLOCATION, BITMAP, BITMAP_LAYOUT, CLOSED, COPY_MARK, DECISION, FIXED, GROUP_MARK, HOST, IMAGE,
                    MAGIC, MERGE_MARK, NIL, PAGE, PARENT, POINT, POINT_LAYOUT, RECORD_HEAD, RECORDS, SEAL, SECTION, SECTOR,
                    SECTOR_BITS, SLOT, crc32c, div_up)

# Reserved fields are given to the layouts as empty bytes, which they fill up with zeros.


def fresh():
    """Return a new identity: of a disk, of a content, of a section (SEC-10), of a point in time (BMP-12)."""
    return uuid.uuid4().bytes


def up(number, unit):
    return div_up(number, unit) * unit


@dataclass
class Section:
    """A record of type 1, and the bits of the section that it names."""

    kind: int
    shift: int                                          # granularity_shift
    covered: int
    bits: list = field(default_factory=list)            # runs [first, end) of set bits
    id: bytes = field(default_factory=fresh)
    offset: Optional[int] = None                        # `place` says where
    length: Optional[int] = None                        # as many bytes as the bits need
    required: Optional[bool] = None                     # allocation sections are (REC-11), others never
    sealed: set = field(default_factory=set)            # sectors that are written though no bit of them is set

    type = SECTION

    def __post_init__(self):
        if self.length is None:
            self.length = div_up(self.needed, 8) * PAGE
        if self.required is None:
            self.required = self.kind == ALLOCATION

    @property
    def needed(self):
        """The sectors that the bits need."""
        return div_up(div_up(self.covered, 1 << self.shift), SECTOR_BITS)

    def payload(self):
        return RECORDS[SECTION][1].pack(self.id, self.kind, self.shift, b"", self.offset, self.length, self.covered,
                                        b"")

    def pages(self):
        """Yield file offset and bytes of each page that has a sector which is not empty (PAG-03, PAG-05)."""
        payloads = dict.fromkeys(self.sealed, 0)
        for first, end in self.bits:
            for number in range(first // SECTOR_BITS, div_up(end, SECTOR_BITS)):
                start = number * SECTOR_BITS
                ones = (1 << min(end - start, SECTOR_BITS)) - (1 << max(first - start, 0))
                payloads[number] = payloads.get(number, 0) | ones
        pages = {}
        for number, payload in payloads.items():
            page, place = divmod(number * SECTOR, PAGE)
            sector = self.sealed_sector(number, payload.to_bytes(496, "little"))
            pages.setdefault(page, bytearray(PAGE))[place:place + SECTOR] = sector
        for page, data in pages.items():
            yield self.offset + page * PAGE, bytes(data)

    def sealed_sector(self, number, payload):
        unsealed = payload + SEAL.pack(number, b"SEAL", 0)[:12]
        return unsealed + crc32c(self.id, unsealed).to_bytes(4, "little")                   # PAG-02


@dataclass
class Parent:
    format: int
    visible_length: int
    uuid: bytes = NIL                                   # an LVD parent has an identity, others have none (CHN-07)
    epoch: bytes = NIL
    hint: str = ""

    type, required = PARENT, True

    def payload(self):
        hint, has_identity = self.hint.encode(), int(self.uuid != NIL)                      # REC-07
        return RECORDS[PARENT][1].pack(self.uuid, self.epoch, has_identity, self.format, self.visible_length,
                                       len(hint), b"") + hint


@dataclass
class MergeMark:
    child_uuid: bytes
    child_epoch: bytes

    type, required = MERGE_MARK, True

    def payload(self):
        return RECORDS[MERGE_MARK][1].pack(self.child_uuid, self.child_epoch, b"")


@dataclass
class CopyMark:
    group: bytes = NIL

    type, required = COPY_MARK, True

    def payload(self):
        return RECORDS[COPY_MARK][1].pack(self.group, b"")


@dataclass
class GroupMark:
    group: bytes

    type, required = GROUP_MARK, False

    def payload(self):
        return RECORDS[GROUP_MARK][1].pack(self.group, b"")


@dataclass
class Decision:
    decision: int

    type, required = DECISION, True

    def payload(self):
        return RECORDS[DECISION][1].pack(self.decision, b"")


@dataclass
class Host:
    """The volume, or the image, that a sidecar stands beside."""

    format: int
    length: int
    former: bytes = NIL

    type, required = HOST, True

    def payload(self):
        return RECORDS[HOST][1].pack(self.format, b"", self.length, self.former)


@dataclass
class Bitmap:
    name: str
    section: bytes                                      # the id of its section
    epoch: bytes
    state: int
    since: bytes = field(default_factory=fresh)

    type, required = BITMAP, False                      # BMP-01

    def payload(self):
        name = self.name.encode()
        return BITMAP_LAYOUT.pack(self.section, self.since, self.epoch, self.state, len(name), b"") + name


@dataclass
class Point:
    source: bytes
    point: bytes

    type, required = POINT, False

    def payload(self):
        return POINT_LAYOUT.pack(self.source, self.point)


@dataclass
class Unknown:
    """A record that is kept as it was found: of an unknown type (REC-13), or that of a bitmap that is none (BMP-01)."""

    type: int
    content: bytes
    required: bool = False

    def payload(self):
        return self.content


@dataclass
class Header:
    virtual_size: int
    records: list = field(default_factory=list)
    kind: int = IMAGE
    state: int = CLOSED
    sequence: int = 1
    uuid: bytes = field(default_factory=fresh)
    epoch: bytes = field(default_factory=fresh)
    data_offset: Optional[int] = None                   # `place` says where
    incompat: int = 0
    ro_compat: int = 0
    compat: int = 0

    @property
    def sections(self):
        return [record for record in self.records if record.type == SECTION]

    def composed(self):
        """Return `header_length` bytes."""
        records = b""
        for record in sorted(self.records, key=lambda record: record.type):                 # REC-12
            payload = record.payload()
            records += RECORD_HEAD.pack(record.type, int(record.required), len(payload))
            records += payload.ljust(up(len(payload), 8), b"\0")                            # REC-02

        def with_checksum(checksum):
            return FIXED.pack(MAGIC, 1, FIXED.size + len(records), checksum, self.kind, self.state, self.sequence,
                              self.uuid, self.epoch, self.virtual_size, self.data_offset, self.incompat,
                              self.ro_compat, self.compat, len(self.records), b"") + records
        return with_checksum(crc32c(with_checksum(0)))                                      # HDR-05


@dataclass
class Description:
    """What a file is to hold. The slots have equal headers but amid an update; None is an empty slot."""

    slots: tuple
    length: int
    data: dict = field(default_factory=dict)            # {guest offset: bytes}, of an image


def place(header):
    """Give sections and data area the places that they have in a new file, and return where they end.

    That is format.md, section 1. Other sections than the allocation section come last, each at the next page.
    """
    end = 2 * SLOT
    for section in header.sections:
        if section.kind == ALLOCATION:
            section.offset, end = end, end + section.length
    header.data_offset = 0
    if header.kind == IMAGE:
        header.data_offset = up(end, SLOT)
        end = header.data_offset + header.virtual_size
    for section in header.sections:
        if section.kind != ALLOCATION:
            section.offset = up(end, PAGE)
            end = section.offset + section.length
    return end


def new_file(header, data=None):
    """Describe a new file: in both slots one header, whose sections and data area have the usual places."""
    end = place(header)
    return Description((header, header), end, data or {})


def intent_shift(size):
    """Return the granularity shift of a new intent section (bitmaps.md, section 4)."""
    def smallest(shifts, most):
        return next((shift for shift in shifts if div_up(size, 1 << shift) <= most), None)
    return smallest(range(16, 25), 4096) or smallest(range(12, 49), 65536)


class Memory:
    """A file in memory, for whoever reads a `reader.File`. Zeros take no space."""

    path = "a description"

    def __init__(self, length):
        self.length, self.pages = length, {}

    def write(self, offset, data):
        if offset + len(data) > self.length:
            raise ValueError("something lies past the end of the file")
        while data:
            number, start = divmod(offset, PAGE)
            part = data[:PAGE - start]
            if any(part) or number in self.pages:
                self.pages.setdefault(number, bytearray(PAGE))[start:start + len(part)] = part
            offset, data = offset + len(part), data[len(part):]

    def read(self, offset, length, pad=False):
        if offset + length > self.length and not pad:
            raise OSError("the file ends too early")
        first, end = offset // PAGE, div_up(offset + length, PAGE)
        data = b"".join(self.pages.get(number, bytes(PAGE)) for number in range(first, end))
        return data[offset - first * PAGE:][:length]

    def next_data(self, offset):
        number = offset // PAGE
        later = [number] if number in self.pages else [page for page in self.pages if page > number]
        return max(offset, min(later) * PAGE if later else self.length)

    def __eq__(self, other):
        def content(file):
            return {number: bytes(page) for number, page in file.pages.items() if any(page)}
        return self.length == other.length and content(self) == content(other)


def contents(description):
    """Yield offset and bytes of pages and guest data. Everything else but the slots is zero."""
    found = [section for header in filter(None, description.slots) for section in header.sections]
    for section in {(section.id, section.offset): section for section in found}.values():
        yield from section.pages()
    newest = max(filter(None, description.slots), key=lambda header: header.sequence)
    for offset, data in description.data.items():
        yield newest.data_offset + offset, data                                             # ALC-01


def headers(description):
    """Yield offset and bytes of the slots, padded with zeros to whole pages (ordering.md, section 3)."""
    for offset, header in zip((0, SLOT), description.slots):
        if header:
            composed = header.composed()
            yield offset, composed.ljust(up(len(composed), PAGE), b"\0")


def compose(description):
    """Return the file that a description describes, whatever rules it breaks."""
    file = Memory(description.length)
    for make in (contents, headers):
        for offset, data in make(description):
            file.write(offset, data)
    return file


def create(path, description):
    """Make a new file. A description of one that a reader must refuse raises the refusal, and nothing is written.

    The order is that of ordering.md, section 7: what the header vouches for is durable before there is a header.
    """
    reader.right_header(compose(description))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(fd, description.length)
        for make in (contents, headers):
            for offset, data in make(description):
                while data:
                    written = os.pwrite(fd, data, offset)
                    offset, data = offset + written, data[written:]
            os.fsync(fd)
    finally:
        os.close(fd)
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)                                                                 # ORD-11
    finally:
        os.close(directory)
