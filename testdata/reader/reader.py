#!/usr/bin/env python3
"""A reader for LVD virtual disks, version 1, written from the specification alone.

    reader.py info  FILE
    reader.py read  FILE [--parent FILE]... [--volume FILE] [--group FILE] [--override RULE]... -o OUT
    reader.py dirty FILE [--parent FILE]... [--volume FILE] [--group FILE] [--beside FILE] [--override RULE]...

`info` prints what the header says, `read` writes what the guest sees to the new file OUT, and `dirty` says what the
dirty bitmaps of FILE tell, and those in the sidecar BESIDE it. The group's file says of a copy that is in it whether it
is one. Parents are listed from the top's parent down; no others
are opened. The answer is one JSON object on standard output. The exit status is 1 if the file was refused or could not
be read in full.

Identifiers such as HDR-05 are rules of format.md, chain.md, foreign.md, groups.md and bitmaps.md. Nothing in here ever writes to an
image.
"""

import argparse
import errno
import fcntl
import hashlib
import itertools
import json
import os
import stat
import struct
import sys
import uuid
from collections import namedtuple
from contextlib import ExitStack

MAGIC = b"\x89LVD\r\n\x1a\n"
SLOT, PAGE, SECTOR, SECTOR_BITS = 65536, 4096, 512, 3968
CHUNK = 1 << 20                                         # bytes of the disk that are copied at once
NIL = bytes(16)
IMAGE, SIDECAR, GROUP = 1, 2, 3
KINDS = {IMAGE: "image", SIDECAR: "sidecar", GROUP: "group"}
STATES = {0: "closed", 1: "filling", 2: "writing"}
ALLOCATION, DIRTY, INTENT, SYNC = 1, 2, 3, 4
SECTIONS = {ALLOCATION: "allocation", DIRTY: "dirty", INTENT: "intent", SYNC: "sync"}
CLOSED, WRITING = 0, 2
UNDECIDED, MOVED = 0, 1
IN_GROUP = 1                                            # feature bit of ro_compat
DISABLED, RECORDING, FROZEN = 0, 1, 2
BITMAP_STATES = {DISABLED: "disabled", RECORDING: "recording", FROZEN: "frozen"}
LVD, RAW, QED = 1, 2, 4
FORMATS = {LVD: "lvd", RAW: "raw", 3: "qcow2", QED: "qed", 5: "vmdk"}

# The tables of format.md: how the bytes lie, and what the fields are called.
FIXED = struct.Struct("<8sIIIHHQ16s16sQQQQQI20s")
RECORD_HEAD = struct.Struct("<HHI")
SEAL = struct.Struct("<Q4sI")
Section = namedtuple("Section", "id kind shift reserved offset length covered reserved2")
Parent = namedtuple("Parent", "uuid epoch flags format visible_length hint_length reserved hint")
MergeMark = namedtuple("MergeMark", "child_uuid child_epoch reserved")
CopyMark = namedtuple("CopyMark", "group reserved")
Host = namedtuple("Host", "format reserved length former")
GroupMark = namedtuple("GroupMark", "group reserved")
Decision = namedtuple("Decision", "decision reserved")
BitmapRecord = namedtuple("BitmapRecord", "section since epoch state name_length reserved name")
Point = namedtuple("Point", "source point")
SECTION, PARENT, MERGE_MARK, COPY_MARK, HOST, BITMAP, POINT, GROUP_MARK, DECISION = 1, 2, 3, 4, 5, 6, 7, 8, 9
RECORDS = {
    SECTION: ("section", struct.Struct("<16sHB5sQQQ8s"), Section),
    PARENT: ("parent", struct.Struct("<16s16sIIQI12s"), Parent),
    MERGE_MARK: ("merge mark", struct.Struct("<16s16s16s"), MergeMark),
    COPY_MARK: ("copy mark", struct.Struct("<16s16s"), CopyMark),
    HOST: ("host", struct.Struct("<I4sQ16s"), Host),
    GROUP_MARK: ("group mark", struct.Struct("<16s16s"), GroupMark),
    DECISION: ("decision", struct.Struct("<I12s"), Decision),
}
QED_HEADER = struct.Struct("<4sIIIQQQQQII")
QED_BACKING, QED_RAW = 1, 4                             # feature bits of QED

# Records that keep no file from opening (BMP-01); section 1 and 8 of bitmaps.md.
BITMAP_LAYOUT, POINT_LAYOUT = struct.Struct("<16s16s16sHH12s"), struct.Struct("<16s16s")

# What a broken rule means. All other rules: the file, or the chain, is "invalid".
RESULTS = {
    "unsupported": ("HDR-03", "HDR-08", "HDR-10", "REC-03", "REC-04", "SEC-01", "SID-03", "GRP-03",
                    "QED-02"),                                                              # a newer file
    "refused": ("CHN-01", "CHN-02", "CHN-03", "CHN-04", "CHN-06", "CHN-08", "SID-05", "SID-07",
                "GRP-05", "QED-07", "EPO-04"),                                              # not like this
    "locked": ("CHN-11",),                                                                  # somebody has it open
}


class Refusal(Exception):
    """Why a file is not opened: the rule that says so, and what that means."""

    def __init__(self, rule, message, result=None):
        super().__init__(message)
        self.rule, self.message = rule, message
        self.result = result or next((name for name, rules in RESULTS.items() if rule in rules), "invalid")


def broken(*checks):
    """Yield a refusal for each check (rule, is it broken, message) that says so."""
    return (Refusal(rule, message) for rule, is_broken, message in checks if is_broken)


def crc32c_entry(value):
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


CRC_TABLE = [crc32c_entry(value) for value in range(256)]


def crc32c(*parts):
    crc = 0xFFFFFFFF
    for byte in itertools.chain(*parts):
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def div_up(a, b):
    return -(-a // b)


def printed(identity):
    return str(uuid.UUID(bytes=identity))


def parsed(payload, record_type, layout, fields):
    """Return what is in the payload of a record, or None and why it is not what its type says (REC-05)."""
    hint = payload[layout.size:]                        # of a parent; other records end there
    if len(payload) < layout.size or hint and record_type != PARENT:
        return None, f"a payload of {len(payload)} bytes"
    record = fields(*layout.unpack_from(payload), *([hint] if record_type == PARENT else []))
    if record_type == PARENT and record.hint_length != len(hint):
        return None, "not as long as the hint asks for"
    if any(any(value) for field, value in record._asdict().items() if field.startswith("reserved")):
        return None, "reserved bytes are not zero"
    return record, None


class File:
    """A regular file or block device, open for reading and locked against writers (CHN-11)."""

    def __init__(self, path):
        self.path, self.fd = path, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(self.fd)
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
                raise Refusal("CHN-08", f"{path} is neither a regular file nor a block device")
            self.identity = status.st_rdev if stat.S_ISBLK(status.st_mode) else (status.st_dev, status.st_ino)
            self._lock()
            self.length = os.lseek(self.fd, 0, os.SEEK_END)
        except BaseException:
            os.close(self.fd)
            raise

    def _lock(self):
        """Take the shared lock on QEMU's bytes (CHN-12); one that the host cannot give is a failure (CHN-17)."""
        def lock(command, kind, byte):
            flock = struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)
            return struct.unpack("hhqqi4x", fcntl.fcntl(self.fd, command, flock))[0]

        try:
            for byte in (100, 201, 203):
                lock(fcntl.F_OFD_SETLK, fcntl.F_RDLCK, byte)
            if any(lock(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, byte) != fcntl.F_UNLCK for byte in (200, 101, 103)):
                raise BlockingIOError(errno.EAGAIN, "held by another program")
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise Refusal("CHN-11", f"{self.path} is open elsewhere for writing") from error
            raise

    def read(self, offset, length, pad=False):
        """Return `length` bytes. Where the file ends, zeros follow with `pad`, and without it that is an error."""
        data = bytearray()
        while piece := os.pread(self.fd, length - len(data), offset + len(data)):
            data += piece
        if len(data) < length and not pad:
            raise OSError(errno.EIO, "the file ends too early", self.path)
        return bytes(data.ljust(length, b"\0"))

    def fingerprint(self):
        """Return what tells a volume that was changed from one that was not (EPO-07)."""
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode) or status.st_mtime_ns < 0:
            return NIL
        return struct.pack("<QQ", status.st_mtime_ns % (1 << 64), status.st_ino)

    def next_data(self, offset):
        """Return an offset up to which the file is a hole. That saves reading its zeros, and means nothing (ALC-08)."""
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            return max(self.length, offset) if error.errno == errno.ENXIO else offset


class Header:
    """The header in a whole slot. Its records are there once `judge` has run to its end."""

    def __init__(self, data, slot):
        self.data, self.slot, self.records = data, slot, {record_type: [] for record_type in RECORDS}
        self.optional = {BITMAP: [], POINT: []}         # payloads, not judged yet: they keep no file from opening
        (_, self.version, self.length, _, self.kind, self.state, self.sequence, self.uuid, self.epoch,
         self.virtual_size, self.data_offset, self.incompat, self.ro_compat, self.compat, self.record_count,
         self.reserved) = FIXED.unpack_from(data)

    def first(self, record_type):
        return next(iter(self.records[record_type]), None)

    def allocation(self):
        return next((section for section in self.records[SECTION] if section.kind == ALLOCATION), None)

    def bitmaps(self):
        """Return the records of dirty bitmaps, and of those that are none the name and the rule they break (BMP-01)."""
        right, none = [], []
        for payload in self.optional[BITMAP]:
            fixed = payload[:BITMAP_LAYOUT.size].ljust(BITMAP_LAYOUT.size, b"\0")
            record = BitmapRecord(*BITMAP_LAYOUT.unpack(fixed), payload[BITMAP_LAYOUT.size:])
            flaw = next(self._judge_bitmap(record, len(payload), right), None)
            if flaw:
                none.append((record.name.decode(errors="replace"), flaw.rule))
            else:
                right.append(record)
        return right, none

    def _judge_bitmap(self, record, length, others):
        """Yield a refusal for each rule that the record of a bitmap breaks behind `others`, which break none."""
        is_text = record.name.decode(errors="ignore").encode() == record.name and b"\0" not in record.name
        is_named = is_text and 1 <= len(record.name) <= 1023
        is_twin = any(other.name == record.name and (other.state == FROZEN) == (record.state == FROZEN)
                      for other in others)
        section = self.section_of(record)
        is_taken = any(other.section == record.section for other in others)
        return broken(
            ("BMP-02", length != BITMAP_LAYOUT.size + record.name_length, "not as long as the name asks for"),
            ("BMP-02", any(record.reserved), "reserved bytes are not zero"),
            ("BMP-02", record.state not in BITMAP_STATES, f"there is no state {record.state}"),
            ("BMP-02", NIL in (record.since, record.epoch), "since or epoch is nil"),
            ("BMP-03", not is_named, "the name is empty, too long, with a NUL or not UTF-8"),
            ("BMP-03", is_twin, "another bitmap has the name"),
            ("BMP-04", not section or bit_count(section) > 1 << 36, "no section, or one with too many bits"),
            ("BMP-04", is_taken, "another bitmap has the section"))

    def section_of(self, bitmap):
        """Return the dirty section that the record of a bitmap names."""
        dirty = (section for section in self.records[SECTION] if section.kind in (DIRTY, SYNC))
        return next((section for section in dirty if section.id == bitmap.section), None)

    def point(self):
        """Return the backup point that counts."""
        right = (payload for payload in self.optional[POINT] if len(payload) == POINT_LAYOUT.size)
        return next((Point(*POINT_LAYOUT.unpack(payload)) for payload in right), None)

    def judge(self):
        """Yield a refusal for each rule that the header breaks, in the order of format.md, section 10, step 3."""
        for flaw in broken(("HDR-03", self.version != 1, f"unknown version {self.version}"),
                           ("HDR-08", self.incompat, f"unknown incompatible features {self.incompat:#x}")):
            yield flaw
            return                                      # since it may change what anything else means
        right_offset = (self.data_offset == 0 if self.kind != IMAGE else
                        2 * SLOT <= self.data_offset <= 1 << 60 and self.data_offset % PAGE == 0)
        yield from broken(
            ("HDR-10", self.kind not in KINDS, f"unknown kind {self.kind}"),
            ("HDR-07", any(self.reserved), "reserved bytes of the header are not zero"),
            ("HDR-11", self.state not in STATES, f"there is no state {self.state}"),
            ("HDR-12", NIL in (self.uuid, self.epoch), "UUID or epoch is nil"),
            ("HDR-13", self.virtual_size > 1 << 60, f"a disk of {self.virtual_size} bytes"),
            ("HDR-14", self.kind in KINDS and not right_offset, f"a data offset of {self.data_offset}"),
            ("HDR-15", not 1 <= self.sequence < 1 << 63, f"a sequence number of {self.sequence}"))
        split, fill = self.split_records()
        yield from broken(("REC-01", not fill, "the records do not fill the header"))
        all_known = fill
        for record in split:
            for flaw in self._judge_record(*record):
                all_known = all_known and flaw.rule != "REC-05"
                yield flaw
        yield from self._judge_together([record_type for record_type, *_ in split], all_known)

    def split_records(self):
        """Return type, flags, payload and padding of each record that lies in the header. Do they fill it (REC-01)?"""
        split, at = [], FIXED.size
        while at < len(self.data) and len(split) < self.record_count:
            record_type, flags, length = RECORD_HEAD.unpack_from(self.data, at)
            start = at + RECORD_HEAD.size
            at = start + div_up(length, 8) * 8
            if at > len(self.data):
                break
            split.append((record_type, flags, self.data[start:start + length], self.data[start + length:at]))
        return split, at == len(self.data) and len(split) == self.record_count

    def _judge_record(self, record_type, flags, payload, padding):
        name, layout, fields = RECORDS.get(record_type, (f"record of type {record_type}", None, None))
        yield from broken(
            ("REC-02", any(padding), f"{name}: padding is not zero"),
            ("REC-04", flags & ~1, f"{name}: unknown flags {flags:#x}"),
            ("REC-03", not layout and flags & 1, f"{name}: required and unknown"))
        if not layout:
            self.optional.get(record_type, []).append(payload)
            return
        record, why = parsed(payload, record_type, layout, fields)
        may_be_optional = record_type == GROUP_MARK or (
            record_type == SECTION and not (record and record.kind == ALLOCATION))
        yield from broken(
            ("REC-05", not record, f"{name}: {why}"),
            ("REC-11", record_type == GROUP_MARK and flags & 1, f"{name}: marked as required"),
            ("REC-11", not flags & 1 and not may_be_optional, f"{name}: not marked as required"))
        if not record:
            return
        self.records[record_type].append(record)
        yield from broken(
            ("REC-10", record_type == MERGE_MARK and NIL in record[:2], f"{name}: child or epoch is nil"),
            ("GRP-03", record_type == DECISION and record[0] > MOVED, f"{name}: unknown, {record[0]}"),
            ("GRP-04", record_type == GROUP_MARK and record[0] == NIL, f"{name}: the group is nil"))
        if record_type == SECTION:
            yield from self._judge_section(record, flags & 1)
        elif record_type == PARENT:
            yield from self._judge_parent(record)

    def _judge_section(self, section, required):
        name, end = f"section {printed(section.id)}", section.offset + section.length
        known, aligned = section.kind in SECTIONS, section.offset % PAGE == section.length % PAGE == 0
        most = 48 if section.kind == INTENT else 24
        yield from broken(
            ("SEC-01", required and not known, f"{name}: required and of unknown kind {section.kind}"),
            ("SEC-02", known and not 12 <= section.shift <= most, f"{name}: granules of 2^{section.shift} bytes"),
            ("SEC-03", not aligned or section.offset < 2 * SLOT or end > 1 << 61, f"{name}: wrong place"),
            ("SEC-04", known and section.length < div_up(needed_sectors(section), 8) * PAGE, f"{name}: too short"))

    def _judge_parent(self, parent):
        identity = [parent.uuid != NIL, parent.epoch != NIL]
        is_text = parent.hint.decode(errors="ignore").encode() == parent.hint and b"\0" not in parent.hint
        if parent.format not in FORMATS or parent.flags & ~1:
            yield Refusal("REC-07", f"parent: unknown format {parent.format} or flags {parent.flags:#x}", "unsupported")
        yield from broken(
            ("REC-07", identity != [parent.flags & 1 == 1] * 2, "parent: UUID and epoch do not agree with the flags"),
            ("REC-08", not is_text or len(parent.hint) > 4096, "parent: hint too long, with a NUL or not UTF-8"),
            ("CHN-05", parent.visible_length > self.virtual_size, "parent: the visible length exceeds the disk"))

    def _judge_together(self, types, all_known):
        """What is missing is known only if `all_known`: the records fill the header, and none of them breaks REC-05."""
        sections, host = self.records[SECTION], self.first(HOST) if self.kind in (IMAGE, SIDECAR) else None
        identities = [section.id for section in sections]
        allocations = [section for section in sections if section.kind == ALLOCATION]
        partial = any(section.covered != self.virtual_size for section in allocations)
        ranges = [(0, 2 * SLOT)] + [(section.offset, section.offset + section.length) for section in sections]
        if self.kind == IMAGE:
            ranges.append((self.data_offset, self.data_offset + self.virtual_size))
        homeless = self.kind == SIDECAR and allocations and (host.format == LVD if host else all_known)
        is_hostless = self.kind == SIDECAR and all_known and HOST not in types
        is_group, is_marked, is_flagged = self.kind == GROUP, GROUP_MARK in types, self.ro_compat & IN_GROUP != 0
        undecided = is_group and all_known and DECISION not in types
        is_disk = self.virtual_size or {SECTION, PARENT, MERGE_MARK, COPY_MARK, HOST, GROUP_MARK}.intersection(types)
        overlap = any(max(a, c) < min(b, d) for (a, b), (c, d) in itertools.combinations(ranges, 2))
        too_many = any(types.count(record_type) > (64 if record_type == SECTION else 1) for record_type in RECORDS)
        yield from broken(
            ("REC-06", too_many, "too many records of one type"),
            ("REC-09", all_known and PARENT in types and not allocations, "a parent, but no allocation section"),
            ("REC-12", types != sorted(types), "the records are not in the order of their types"),
            ("SEC-05", overlap, "sections, data area and slots overlap"),
            ("SEC-06", NIL in identities or len(set(identities)) < len(identities), "a section's id is nil or not new"),
            ("SEC-07", len(allocations) > 1 or partial, "two allocation sections, or one that does not fit the disk"),
            ("SEC-09", homeless, "an allocation section in a sidecar without host, or in that of an image"),
            ("SID-01", is_hostless or self.kind == IMAGE and HOST in types, "a sidecar without host, an image with one"),
            ("SID-03", host and host.format not in (LVD, RAW), f"unknown host format {host and host.format}"),
            ("SID-04", host and self.virtual_size > host.length, "the disk is longer than the sidecar's host"),
            ("GRP-01", undecided or self.kind in (IMAGE, SIDECAR) and DECISION in types,
             "a group without a decision, another file with one"),
            ("GRP-02", is_group and is_disk, "a group with a disk, or with something of one"),
            ("GRP-04", is_marked and not is_flagged or is_flagged and all_known and not is_marked,
             "a group mark without its feature, or the other way round"))

    def judge_length(self, file):
        """Yield a refusal for each rule that the file breaks by being too short for its header."""
        data_end, section = self.data_offset + self.virtual_size, self.allocation()
        return broken(
            ("HDR-01", file.length < 2 * SLOT, f"{file.length} bytes have no room for two slots"),
            ("HDR-16", self.kind == IMAGE and file.length < data_end, "the file ends within the data area"),
            ("SEC-08", section and file.length < section.offset + section.length, "the file ends within the bits"))


def read_slot(file, offset):
    """Return the header of a whole slot, the flaw of a torn one, or None for an empty one (format.md, section 2)."""
    data = file.read(offset, SLOT, pad=True)
    magic, version, length, checksum = struct.unpack_from("<8sIII", data)
    if not any(data):
        return None
    if magic != MAGIC:
        return Refusal("HDR-02", "there is no magic")
    if length % 8 or not FIXED.size <= length <= SLOT:
        flaw = Refusal("HDR-04", f"a header of {length} bytes")
    elif crc32c(data[:16], bytes(4), data[20:length]) != checksum:
        flaw = Refusal("HDR-05", "the header's checksum is wrong")
    else:
        return Header(data[:length], offset // SLOT)
    return flaw if version == 1 else Refusal("HDR-03", f"unknown version {version}")


def read_header(file):
    """Return the header that counts, or None, and a list of all rules that the file breaks, the first one first.

    If one of two whole slots breaks a rule, none counts, and the other one is returned; if both do, the newer one.
    """
    slots = [read_slot(file, 0), read_slot(file, SLOT)]
    headers = [slot for slot in slots if isinstance(slot, Header)]
    if not headers:                                                                         # HDR-20
        order = ("HDR-02", "HDR-04", "HDR-05", "HDR-03")
        torn = [slot for slot in slots if slot] or [Refusal("HDR-02", "both slots are empty")]
        return None, sorted(torn, key=lambda flaw: order.index(flaw.rule), reverse=True)
    is_equal = headers[0].data == headers[-1].data
    right, flaws = [], []
    for header in headers[:1] if is_equal else headers:                                     # HDR-17, HDR-18
        found = [Refusal(flaw.rule, f"slot {header.slot}: {flaw.message}", flaw.result) for flaw in header.judge()]
        right += [] if found else [header]
        flaws += found
    clash = not is_equal and not flaws and headers[0].sequence == headers[-1].sequence
    flaws += broken(("HDR-06", clash, "two headers of one sequence number differ"))
    strange = len({(header.kind, header.uuid) for header in right}) > 1
    flaws += broken(("HDR-23", strange and not flaws, "the headers are of two files"))
    newest = max(right or headers, key=lambda header: header.sequence)                      # HDR-19
    return newest, flaws + list(newest.judge_length(file) if right else [])


def right_header(file):
    header, flaws = read_header(file)
    for flaw in flaws:
        raise Refusal(flaw.rule, f"{file.path}: {flaw.message}", flaw.result)
    return header


def bit_count(section):
    return div_up(section.covered, 1 << section.shift)


def needed_sectors(section):
    return div_up(bit_count(section), SECTOR_BITS)


def unseal(section, number, sector):
    """Return the bits of a sector as one number, or None if it is bad (PAG-01 to 03)."""
    if not any(sector):
        return 0
    index, marker, checksum = SEAL.unpack_from(sector, 496)
    if marker != b"SEAL" or index != number or checksum != crc32c(section.id, sector[:508]):
        return None
    return int.from_bytes(sector[:496], "little")


class Bits:
    """The bits of a section. One page of it is kept in memory (LIM-02)."""

    def __init__(self, file, section):
        self.file, self.section = file, section
        self.page_number = self.page = None

    def _sector(self, number):
        page_number, place = divmod(number, PAGE // SECTOR)
        if page_number != self.page_number:
            try:
                data = self.file.read(self.section.offset + page_number * PAGE, PAGE)
            except OSError:
                return None                             # what cannot be read is not known either
            self.page = [unseal(self.section, page_number * 8 + i, data[i * SECTOR:][:SECTOR]) for i in range(8)]
            self.page_number = page_number
        return self.page[place]

    def run(self, start, end):
        """Return the state of byte `start` of the disk and how far it reaches, or a part of that, up to `end`."""
        bit = start >> self.section.shift
        number, place = divmod(bit, SECTOR_BITS)
        bits, count = self._sector(number), SECTOR_BITS - place         # count: up to the end of the sector
        state = "bad"
        if bits == 0:                                                   # and so are all sectors in a hole behind it
            state, base = "absent", self.section.offset
            sectors = (self.file.next_data(base + (number + 1) * SECTOR) - base) // PAGE * 8
            count = max(sectors, number + 1) * SECTOR_BITS - bit
        elif bits is not None:
            bits >>= place
            state = "present" if bits & 1 else "absent"
            others = bits ^ ((1 << count) - 1) if bits & 1 else bits    # ones where the state is another
            count = (others & -others).bit_length() - 1 if others else count
        return state, min((bit + count) << self.section.shift, end)


# What a dirty bitmap tells of a disk (bitmaps.md): `dirty` are the stretches [start, end), each as long as possible.
Told = namedtuple("Told", "name sync state granularity since trust dirty")


def dirty_bits(file, section, size):
    """Yield the stretches of a disk of `size` bytes that are dirty by the bits of a section (BMP-05)."""
    bits, granule, at = Bits(file, section), 1 << section.shift, 0
    reached = size if size <= section.covered else section.covered // granule * granule
    while at < reached:
        state, stop = bits.run(at, reached)
        if state != "absent":
            yield at, stop
        at = stop
    yield reached, size


def intended(file, header, dirty_section):
    """Yield the stretches that intents make dirty in a recording bitmap (INT-02)."""
    unclean, granule = header.state == WRITING, 1 << dirty_section.shift
    section = next((section for section in header.records[SECTION] if section.kind == INTENT), None)
    if section and bit_count(section) > 65536:
        section = None                                  # none of its sectors is read
    bits, at, end = Bits(file, section), 0, bit_count(section) << section.shift if section else 0
    while at < end:
        state, stop = bits.run(at, end)
        if state == "present" or state == "bad" and unclean:
            yield at // granule * granule, div_up(stop, granule) * granule
        at = stop
    covered = section.covered if section else 0
    if unclean and covered < dirty_section.covered:
        yield covered // granule * granule, 1 << 64


def united(stretches, size):
    """Return what the stretches make up of a disk, in order, each as long as possible."""
    result = []
    for start, end in sorted((start, min(end, size)) for start, end in stretches):
        if start < end and result and start <= result[-1][1]:
            result[-1] = result[-1][0], max(end, result[-1][1])
        elif start < end:
            result.append((start, end))
    return result


def told(file, header, size, distrusted):
    """Yield what each bitmap of a file tells of a disk of `size` bytes; `distrusted`: it changed behind their backs."""
    records, _ = header.bitmaps()

    def trust(record):
        if record.epoch == header.epoch and not distrusted:
            return "valid"
        return "stale" if record.state == RECORDING else "missed_writes"                    # BMP-06, BMP-07

    def dirty(record):
        section = header.section_of(record)
        yield from dirty_bits(file, section, size)
        if record.state == RECORDING:
            yield from intended(file, header, section)

    for record in records:
        parts = [part for part in records if part.name == record.name]
        frozen = [part for part in parts if part.state == FROZEN]
        if frozen and record is not frozen[0]:
            continue                                    # a successor, which is told of with the frozen one (BMP-08)
        trusts = [trust(part) for part in parts if part.state != FROZEN] or ["stale"]
        stretches = [(0, size)] if trusts == ["stale"] else itertools.chain(*map(dirty, parts))
        section = header.section_of(record)
        yield Told(record.name.decode(), section.kind == SYNC, BITMAP_STATES[record.state], 1 << section.shift,
                   printed(record.since), trusts[0], united(stretches, size))


# Bytes [start, end) of the disk: "data" of the layer, "zero" (no layer), or "unreadable" in the layer.
Extent = namedtuple("Extent", "start end kind layer")


class Layer:
    """An image, a sidecar with its volume, or a raw file (then `header` is None), in a chain."""

    bad_rule = "PAG-01"                                 # why an unreadable extent is

    def __init__(self, file, header=None, volume=None, unverified=False):
        self.file, self.header, self.data_file, self.unverified = file, header, volume or file, unverified
        self.size = header.virtual_size if header else file.length
        self.data_offset = header.data_offset if header else 0
        self.link = header.first(PARENT) if header else None
        self.bitmap = Bits(file, header.allocation()) if header and header.allocation() else None
        self.parent = None

    def extents(self, start, end):
        """Yield the extents that make up [start, end), in order: format.md, section 7."""
        visible = self.link.visible_length if self.link else 0
        while start < end:
            state, stop = self.bitmap.run(start, end) if self.bitmap else ("present", end)
            if state == "absent":
                below = min(max(start, visible), stop)                                      # ALC-05
                if start < below:
                    yield from self.parent.extents(start, below)
                if below < stop:
                    yield Extent(below, stop, "zero", None)
            else:
                yield Extent(start, stop, "data" if state == "present" else "unreadable", self)
            start = stop

    def read(self, start, length):
        return self.data_file.read(self.data_offset + start, length)                        # ALC-01

    def next_data(self, start):
        """Return an offset of the disk up to which the data file is a hole."""
        return self.data_file.next_data(self.data_offset + start) - self.data_offset


class QedImage:
    """A QED image in a chain (foreign.md, section 1). One page of each kind of table is kept in memory."""

    bad_rule, header, unverified = "QED-05", None, True                                     # CHN-09

    def __init__(self, file):
        self.file, self.parent, self.pages = file, None, {}
        (magic, self.cluster, table, header, features, _, _, self.l1, self.size, name_offset, name_length) = (
            QED_HEADER.unpack(file.read(0, QED_HEADER.size, pad=True)))
        self.table, self.header_end = table * self.cluster, header * self.cluster
        self.entries = self.table // 8
        name_end = name_offset + name_length
        is_backed = features & QED_BACKING
        for flaw in broken(
                ("QED-01", magic != b"QED\0", "no QED image"),
                ("QED-02", features >> 3, f"unknown features {features:#x}"),
                ("QED-03", self.cluster not in (1 << bit for bit in range(12, 27)) or table not in (1, 2, 4, 8, 16),
                 f"clusters of {self.cluster} bytes, tables of {table} clusters"),
                ("QED-04", self.size % 512 or self.size > min(self.entries ** 2 * self.cluster, 1 << 60),
                 f"a disk of {self.size} bytes"),
                ("QED-05", not self._is_placed(self.l1, self.table), f"an L1 table at {self.l1}"),
                ("QED-06", is_backed and (name_end > self.header_end or name_length > 4096), "name out of bounds")):
            raise Refusal(flaw.rule, f"{file.path}: {flaw.message}")
        self.link = None
        if is_backed:
            name = file.read(name_offset, name_length)
            if name.decode(errors="ignore").encode() != name or b"\0" in name:
                raise Refusal("QED-06", f"{file.path}: name with a NUL or not UTF-8")
            if not features & QED_RAW:
                raise Refusal("QED-07", f"{file.path}: the format of its backing file is not said")
            self.link = Parent(NIL, NIL, 0, RAW, 0, name_length, b"", name)                 # QED-08

    def _is_placed(self, offset, length):
        within = max(self.header_end, 1) <= offset <= self.file.length - length
        return within and self.cluster and offset % self.cluster == 0

    def _entry(self, level, table, index):
        number, place = divmod(table + index * 8, PAGE)
        if self.pages.get(level, (None,))[0] != number:
            self.pages[level] = number, self.file.read(number * PAGE, PAGE)
        return int.from_bytes(self.pages[level][1][place:place + 8], "little")

    def _cluster(self, number):
        """Return "data" and its file offset, "zero", "absent" or "bad", and how many clusters are alike at least."""
        index, place = divmod(number, self.entries)
        table = self._entry(1, self.l1, index)                                              # QED-09
        if table == 0 or not self._is_placed(table, self.table):
            return "absent" if table == 0 else "bad", 0, self.entries - place
        cluster = self._entry(2, table, place)
        if cluster < 2:
            return ("absent", "zero")[cluster], 0, 1
        return "data" if self._is_placed(cluster, self.cluster) else "bad", cluster, 1      # QED-10

    def extents(self, start, end):
        """Yield the extents that make up [start, end), in order."""
        while start < end:
            number = start // self.cluster
            state, _, count = self._cluster(number)
            stop = min((number + count) * self.cluster, end)
            below = min(max(start, self.parent.size), stop) if self.parent and state == "absent" else start
            if start < below:
                yield from self.parent.extents(start, below)
            if below < stop:
                kind = {"data": "data", "bad": "unreadable"}.get(state, "zero")
                yield Extent(below, stop, kind, self if kind != "zero" else None)
            start = stop

    def _places(self, start, length):
        """Yield the file offset and the length of each part of data that lies in one cluster."""
        while length:
            number, offset = divmod(start, self.cluster)
            part = min(self.cluster - offset, length)
            yield self._cluster(number)[1] + offset, part
            start, length = start + part, length - part

    def read(self, start, length):
        return b"".join(self.file.read(*place) for place in self._places(start, length))

    def next_data(self, start):
        """Return an offset of the disk up to which the cluster at `start`, which holds data, is a hole."""
        (place, length), = self._places(start, self.cluster - start % self.cluster)
        return start + min(self.file.next_data(place) - place, length)


def given_parents(paths):
    """A policy: the files that the caller lists, in order from the top's parent down."""
    paths = iter(paths)
    return lambda link, child: next(paths, None)


def named_parents(paths):
    """A policy: what the caller's mapping has for the hint. A hint that is not in it opens nothing."""
    return lambda link, child: paths.get(link.hint.decode())


class Disk(ExitStack):
    """A chain, open for reading. `policy(link, child)` gives the path of a parent, or None to refuse it (CHN-01).

    `override` names those of the rules CHN-03, CHN-04 and CHN-06 that shall not keep the chain from opening. `beside` is
    a sidecar that has bitmaps of the top, `group` the file of a group.
    """

    def __init__(self, path, policy=given_parents(()), volume=None, override=(), max_depth=64, beside=None, group=None):
        super().__init__()
        self.layers, self.identities, self.max_depth = [], set(), max_depth
        self.trackers = []                              # files with bitmaps of the top: file, header, distrusted
        self.override = {"CHN-03", "CHN-04", "CHN-06"}.intersection(override)
        self.moved = NIL                                # the group whose file says so
        try:
            if group is not None:
                self._open_group(group)
            self._open_top(path, volume)
            while self.layers[-1].link:
                self._open_parent(self.layers[-1], policy)
            if beside is not None:
                self._open_beside(beside)
        except BaseException:
            self.close()
            raise
        self.size = self.layers[0].size

    def _refuse_if(self, is_broken, rule, message, result=None):
        if is_broken and rule not in self.override:
            raise Refusal(rule, message, result)

    def _open(self, path):
        file = File(path)
        self.callback(os.close, file.fd)
        self._refuse_if(file.identity in self.identities, "CHN-02", f"{path} is part of the chain already")
        self.identities.add(file.identity)
        return file

    def _open_group(self, path):
        header = right_header(self._open(path))
        self._refuse_if(header.kind != GROUP, "GRP-05", f"{path} is not the file of a group")
        self.moved = header.uuid if header.first(DECISION).decision == MOVED else NIL

    def _is_no_copy(self, header):
        """Tell whether a copy mark keeps the file closed; one of a group that has moved does not (groups.md, section 3)."""
        mark = header.first(COPY_MARK)
        return mark and (mark.group == NIL or mark.group != self.moved)

    def _open_top(self, path, volume_path):
        file = self._open(path)
        header = right_header(file)
        volume = self._open(volume_path) if volume_path is not None else None
        self._refuse_if(header.kind == SIDECAR and not volume, "SID-07", f"{path} is a sidecar: no disk by itself")
        self._refuse_if(header.kind == GROUP and not volume, "GRP-05", f"{path} is the file of a group: no disk")
        self._refuse_if(header.kind != SIDECAR and volume, "SID-05", f"{path} is no sidecar, and needs no volume")
        self._refuse_if(volume and header.first(HOST).format != RAW, "SID-05", f"{path} is the sidecar of an image")
        self._refuse_if(volume and volume.length < header.first(HOST).length, "SID-02", f"{volume_path} is too short")
        self._refuse_if(header.first(MERGE_MARK), "CHN-04", f"{path} is being merged into")
        self._refuse_if(self._is_no_copy(header), "CHN-06", f"{path} is not a whole copy yet")
        self.layers.append(Layer(file, header, volume, unverified=volume is not None))      # CHN-09
        former = header.first(HOST).former if volume and header.state == CLOSED else NIL
        self.trackers.append((file, header, former not in (NIL, volume and volume.fingerprint())))      # EPO-07

    def _open_beside(self, path):
        file, image = self._open(path), self.layers[0].header
        header = right_header(file)
        host = header.first(HOST)
        self._refuse_if(not host or host.format != LVD, "SID-05", f"{path} is not the sidecar of an image")
        self._refuse_if(header.uuid != image.uuid, "EPO-04", f"{path} is the sidecar of another image")
        self.trackers.append((file, header, image.epoch not in (header.epoch, host.former)))

    def _open_parent(self, child, policy):
        link, path = child.link, policy(child.link, child)
        self._refuse_if(path is None, "CHN-01", f"the caller gives no parent for {child.file.path}")
        foreign = link.format not in (LVD, RAW, QED)
        self._refuse_if(foreign, "REC-07", f"parents of format {FORMATS[link.format]}", "unsupported")
        self._refuse_if(len(self.layers) >= self.max_depth, "CHN-02", f"more than {self.max_depth} layers")
        file = self._open(path)
        header = right_header(file) if link.format == LVD else None                         # CHN-08
        if header:
            self._refuse_if(header.kind == SIDECAR, "SID-07", f"{path} is a sidecar: no disk by itself")
            self._refuse_if(header.kind == GROUP, "GRP-05", f"{path} is the file of a group: no disk")
        self._match(link, header, path)
        parent = QedImage(file) if link.format == QED else Layer(file, header, unverified=link.flags == 0)  # CHN-09
        self._refuse_if(link.visible_length > parent.size, "CHN-05", f"{path} is too short for its child", "refused")
        self.layers.append(parent)
        child.parent = parent

    def _match(self, link, header, path):
        """Is this the parent, in the content, that the link names (CHN-03)? May it be read from here?"""
        if header is None:
            self._refuse_if(link.flags == 1, "CHN-03", f"{path} has no identity, and the link names one")
            return
        self._refuse_if(header.uuid != link.uuid, "CHN-03", f"{path} is not the disk {printed(link.uuid)}")
        if mark := header.first(MERGE_MARK):
            child_above = any(layer.header.uuid == mark.child_uuid for layer in self.layers)
            is_named = link.uuid == header.uuid and link.epoch in (header.epoch, mark.child_epoch)
            message = f"{path} is being merged into for {printed(mark.child_uuid)}; running the merge again finishes it"
            self._refuse_if(not (child_above and is_named), "CHN-04", message)
        else:
            self._refuse_if(header.epoch != link.epoch, "CHN-03", f"{path} has changed since the link was made")
        self._refuse_if(self._is_no_copy(header), "CHN-06", f"{path} is not a whole copy yet")

    def bitmaps(self):
        """Yield what the dirty bitmaps of the top tell, those beside it too."""
        for file, header, distrusted in self.trackers:
            yield from told(file, header, self.size, distrusted)

    def no_bitmaps(self):
        """Return name and broken rule of the records that are no bitmaps."""
        return [none for _, header, _ in self.trackers for none in header.bitmaps()[1]]

    def extents(self):
        """Yield the extents of the whole disk, each as long as possible."""
        same = itertools.groupby(self.layers[0].extents(0, self.size), key=lambda extent: extent[2:])
        for (kind, layer), group in same:
            first = last = next(group)
            for last in group:
                pass
            yield Extent(first.start, last.end, kind, layer)


# The command line


def as_json(record):
    """Return the fields of a record, without the reserved ones."""
    fields = {name: value for name, value in record._asdict().items() if not name.startswith("reserved")}
    return {name: value.decode() if name == "hint" else printed(value) if isinstance(value, bytes) else value
            for name, value in fields.items()}


def info(args):
    with ExitStack() as files:
        file = File(args.file)
        files.callback(os.close, file.fd)
        header = right_header(file)
    answer = {"result": "ok", "kind": KINDS[header.kind], "state": STATES[header.state]}
    answer |= {"uuid": printed(header.uuid), "epoch": printed(header.epoch)}
    for field in ("sequence", "virtual_size", "data_offset", "ro_compat", "compat"):
        answer[field] = getattr(header, field)
    for record_type, (name, _, _) in RECORDS.items():
        answer[name.replace(" ", "_")] = [as_json(record) for record in header.records[record_type]]
    return answer


def read(args):
    """Write the disk to a new file. Zeros become holes there, and so does what cannot be read, which is reported."""
    digest, extents, unreadable = hashlib.sha256(), [], []
    policy = given_parents(args.parent)
    with Disk(args.file, policy, args.volume, args.override, group=args.group) as disk, open(args.output, "xb") as out:
        out.truncate(disk.size)
        for extent in disk.extents():
            layer = disk.layers.index(extent.layer) if extent.layer else None
            extents.append({"start": extent.start, "end": extent.end, "kind": extent.kind, "layer": layer})
            for start in range(extent.start, extent.end, CHUNK):
                end = min(start + CHUNK, extent.end)
                data, rule = bytes(end - start), extent.layer.bad_rule if extent.kind == "unreadable" else None
                try:
                    if extent.kind == "data":
                        data = extent.layer.read(start, end - start)
                        out.seek(start)
                        out.write(data)
                except OSError as error:
                    rule = os.strerror(error.errno)
                digest.update(data)
                if rule and unreadable and unreadable[-1]["end"] == start and unreadable[-1]["rule"] == rule:
                    unreadable[-1]["end"] = end
                elif rule:
                    unreadable.append({"start": start, "end": end, "rule": rule})
        layers = [layer_as_json(layer) for layer in disk.layers]
    return {"result": "damaged" if unreadable else "ok", "virtual_size": disk.size, "sha256": digest.hexdigest(),
            "unreadable": unreadable, "extents": extents, "layers": layers}


def layer_as_json(layer):
    form = "lvd" if layer.header else "qed" if isinstance(layer, QedImage) else "raw"
    answer = {"file": layer.file.path, "format": form, "unverified": layer.unverified}
    if layer.header:
        answer |= {"uuid": printed(layer.header.uuid), "epoch": printed(layer.header.epoch),
                   "state": STATES[layer.header.state]}
    return answer


def dirty(args):
    """Say what the dirty bitmaps tell."""
    policy = given_parents(args.parent)
    with Disk(args.file, policy, args.volume, args.override, beside=args.beside, group=args.group) as disk:
        bitmaps = [bitmap._asdict() for bitmap in disk.bitmaps()]
        none = [{"name": name, "rule": rule} for name, rule in disk.no_bitmaps()]
        point = disk.layers[0].header.point()
    return {"result": "ok", "bitmaps": bitmaps, "no_bitmaps": none, "point": point and as_json(point)}


def tell(ask):
    """Print what `ask` returns, or why it fails. Return whether anything is wrong."""
    try:
        answer = ask()
    except Refusal as flaw:
        answer = {"result": flaw.result, "rules": [flaw.rule], "message": flaw.message}
    except OSError as error:
        answer = {"result": "error", "message": str(error)}
    json.dump(answer, sys.stdout, indent=2)
    print()
    return answer["result"] != "ok"


def main():
    parser = argparse.ArgumentParser(description="Read LVD virtual disks.")
    commands = parser.add_subparsers(required=True)
    for command, description in ((info, "print the header"), (read, "write the disk to a file"),
                                 (dirty, "say what the dirty bitmaps tell")):
        options = commands.add_parser(command.__name__, help=description)
        options.add_argument("file", metavar="FILE")
        options.set_defaults(command=command)
        if command in (read, dirty):
            options.add_argument("--parent", metavar="FILE", action="append", default=[])
            options.add_argument("--volume", metavar="FILE")
            options.add_argument("--group", metavar="FILE")
            options.add_argument("--override", metavar="RULE", action="append", default=[])
        if command is dirty:
            options.add_argument("--beside", metavar="FILE")
        if command is read:
            options.add_argument("-o", "--output", metavar="OUT", required=True)
    args = parser.parse_args()
    return tell(lambda: args.command(args))


if __name__ == "__main__":
    sys.exit(main())
