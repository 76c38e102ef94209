"""Descriptions, for writer.py, of the files of the conformance vectors: from what a vector states, or from a file."""

import pathlib
import re
import sys
import uuid

import reader
from reader import (ALLOCATION, BITMAP, BITMAP_LAYOUT, BITMAP_STATES, COPY_MARK, DECISION, DIRTY, FORMATS, GROUP_MARK,
                    HOST, IN_GROUP, KINDS, MERGE_MARK, NIL, PAGE, PARENT, POINT, POINT_LAYOUT, RAW, RECORDS, SECTION,
                    SECTOR, SECTOR_BITS, SIDECAR, SLOT, STATES, div_up)
from writer import (Bitmap, CopyMark, Decision, Description, GroupMark, Header, Host, Memory, MergeMark, Parent, Point,
                    Section, Unknown, new_file)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from restore import lines_of    # noqa: E402


class Undescribed(Exception):
    """A description has no words for this."""


def value_of(names, name):
    return next(value for value, known in names.items() if known == name)


def identity(text):
    return uuid.UUID(text).bytes if text else NIL


def load(file, folder):
    """Return a file of a vector."""
    memory = Memory(file["length"])
    for offset, data in lines_of(folder / file["dump"]) if "dump" in file else ():
        memory.write(offset, data)
    return memory


# From a file


def parsed(file):
    """Describe a file by what its bytes say. Bytes without meaning are left out, but for data under clear bits."""
    slots = [reader.read_slot(file, offset) for offset in (0, SLOT)]
    if not any(slots) or any(isinstance(slot, reader.Refusal) for slot in slots):
        raise Undescribed("a torn slot")
    headers = tuple(slot and parsed_header(file, slot) for slot in slots)
    newest = max(filter(None, headers), key=lambda header: header.sequence)
    data = {}
    for number, page in file.pages.items() if newest.kind != SIDECAR else ():
        start = max(number * PAGE, newest.data_offset)
        end = min((number + 1) * PAGE, newest.data_offset + newest.virtual_size)
        if start < end:
            data[start - newest.data_offset] = bytes(page[start - number * PAGE:end - number * PAGE])
    return Description(headers, file.length, data)


def parsed_header(file, slot):
    records, fill = slot.split_records()
    if not fill or slot.version != 1:
        raise Undescribed("no header of this version, or records that do not fill it")
    records = [parsed_record(file, *record) for record in records]
    return Header(slot.virtual_size, records, slot.kind, slot.state, slot.sequence, slot.uuid, slot.epoch,
                  slot.data_offset, slot.incompat, slot.ro_compat, slot.compat)


def parsed_record(file, record_type, flags, payload, _):
    if record_type == BITMAP and len(payload) >= BITMAP_LAYOUT.size:
        section, since, epoch, state, name_length, reserved = BITMAP_LAYOUT.unpack_from(payload)
        name = payload[BITMAP_LAYOUT.size:]
        if not flags and name_length == len(name) and not any(reserved) and text(name) is not None:
            return Bitmap(text(name), section, epoch, state, since)
    if record_type == POINT and len(payload) == POINT_LAYOUT.size:
        return Point(*POINT_LAYOUT.unpack(payload))
    if record_type not in RECORDS:
        return Unknown(record_type, payload, flags == 1)
    _, layout, fields = RECORDS[record_type]
    hint = [payload[layout.size:]] if record_type == PARENT else []
    if len(payload) < layout.size or hint and text(*hint) is None:
        raise Undescribed("a record that is too short, or a hint that is no text")
    found = fields(*layout.unpack_from(payload), *hint)
    if record_type == SECTION:
        return parsed_section(file, found, flags == 1)
    return {PARENT: lambda: Parent(found.format, found.visible_length, found.uuid, found.epoch, text(found.hint)),
            MERGE_MARK: lambda: MergeMark(found.child_uuid, found.child_epoch),
            COPY_MARK: lambda: CopyMark(found.group),
            GROUP_MARK: lambda: GroupMark(found.group),
            DECISION: lambda: Decision(found.decision),
            HOST: lambda: Host(found.format, found.length, found.former)}[record_type]()


def text(data):
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def parsed_section(file, found, required):
    section = Section(found.kind, found.shift, found.covered, [], found.id, found.offset, found.length, required)
    at, end = found.offset, min(found.offset + found.length, file.length)
    while (at := at // SECTOR * SECTOR) + SECTOR <= end:
        number, sector = (at - found.offset) // SECTOR, file.read(at, SECTOR)
        if any(sector):
            bits = reader.unseal(found, number, sector)
            if bits is None:
                raise Undescribed("a bad sector")
            for first, last in runs(bits):
                first, last = first + number * SECTOR_BITS, last + number * SECTOR_BITS
                if section.bits and section.bits[-1][1] == first:
                    first = section.bits.pop()[0]
                section.bits.append((first, last))
            section.sealed |= {number} if bits == 0 else set()
        at = file.next_data(at + SECTOR)
    return section


def runs(bits):
    """Return the runs [first, end) of ones in a number."""
    found, at = [], 0
    while bits >> at:
        first = at + lowest(bits >> at)
        at = first + lowest(~(bits >> first))
        found.append((first, at))
    return found


def lowest(bits):
    return (bits & -bits).bit_length() - 1


# From what a vector states

# What lies under clear bits is stated nowhere, as no reader may show it. The `junk` of testdata/README.md, as offset
# and length, lies here:
JUNK = (
    (r"alc-garbage-masked", 0, 16384),
    (r"alc-some_present|rec-all_types|wrt-after_filling", 8192, 512),
    (r"chn-(two|copy|epoch|hint|merge|parent|session|uuid).*", 8192, 4096),
    (r"job-(copy|merge|stream)-.*", 16384, 1024),
    (r"job-rebase-.*", 24576, 512),
    (r"pag-empty", 0, 512),
    (r"wrt-.*", 16384, 4096),
)

# The stretches of a parent that hold data with the tag `base`: in vectors of jobs not all of it.
BASE_OF_JOBS = ((0, 2048), (8192, 9216), (13000, 21000), (25000, 26000), (38912, 40000))


def tagged(tag, offset, length):
    """Return data as testdata/README.md says: each sector begins and ends with a tag and its offset in the disk."""
    data = b""
    for sector in range(offset, offset + length, SECTOR):
        label = f"{tag}:{sector:011x}".encode()
        data += label + bytes(SECTOR - 2 * len(label)) + label
    return data[:length]


def stated(vector, folder, name, file):
    """Describe a file by what its vector states of it, or return None if that is not enough.

    The layout is that of new files, both slots are equal, and there is no intent. The ids of sections are random
    (SEC-10) and stated nowhere: they, and nothing else, are taken from the file.
    """
    lengths = {file["name"]: file["length"] for file in vector["files"]}
    for case in vector["cases"]:
        facts = case.get("header", {})
        if case["open"] == name and facts and (facts["complete"] or "extents" in case["disk"]):
            return stated_top(vector, folder, case, lengths, file)
        if case.get("parents", [None])[0] == name and "parent" in facts:
            return stated_parent(vector, facts["parent"], lengths[name])
    return None


def stated_top(vector, folder, case, lengths, file):
    facts, disk = case["header"], case["disk"]
    found, _ = reader.read_header(file)
    ids = {section.kind: section.id for section in reversed(found.records[SECTION])}
    size, epoch = facts["virtual_size"], identity(facts["epoch"])
    extents = disk.get("extents", [{"offset": 0, "length": size, "held": "here"}])
    here = [(extent["offset"], extent["offset"] + extent["length"])
            for extent in extents if extent["held"] == "here"]
    records = []
    if not facts["complete"]:
        records.append(section_of(ALLOCATION, facts["granule"], size, here, ids[ALLOCATION]))
    if link := facts.get("parent"):
        records.append(Parent(value_of(FORMATS, link["format"]), link["visible_length"], identity(link.get("uuid")),
                              identity(link.get("epoch")), link["hint"]))
    if mark := facts.get("merge_mark"):
        records.append(MergeMark(identity(mark["child_uuid"]), identity(mark["child_epoch"])))
    if "copy_mark" in facts:
        records.append(CopyMark(identity(facts["copy_mark"])))
    if "volume" in case:
        records.append(Host(RAW, lengths[case["volume"]]))
    ro_compat = 0
    if "group_mark" in facts:
        records.append(GroupMark(identity(facts["group_mark"])))
        ro_compat = IN_GROUP
    for bitmap in case.get("bitmaps", ()) if "beside" not in case else ():
        section_id = next(record.section for record in found.bitmaps()[0]
                          if record.name.decode() == bitmap["name"])
        dirty = [(offset, offset + length) for offset, length in bitmap["dirty"]]
        records.append(section_of(DIRTY, bitmap["granularity"], size, dirty, section_id))
        records.append(Bitmap(bitmap["name"], section_id, epoch, value_of(BITMAP_STATES, bitmap["state"]),
                              identity(bitmap["since"])))
    if point := case.get("point"):
        records.append(Point(identity(point["source"]), identity(point["point"])))
    header = Header(size, records, value_of(KINDS, facts["kind"]), value_of(STATES, facts["state"]),
                    facts["sequence"], identity(facts["uuid"]), epoch, ro_compat=ro_compat)
    data = {}
    if header.kind != SIDECAR:
        dump = dict(lines_of(folder / disk["dump"])) if "dump" in disk else {}
        data = {at: line for at, line in dump.items() if any(start <= at < end for start, end in here)}
        junk = next((place for names, *place in JUNK if re.fullmatch(names, vector["name"])), None)
        if junk and not facts["complete"]:
            data[junk[0]] = tagged("junk", *junk)[:max(size - junk[0], 0)]
    return new_file(header, data)


def section_of(kind, granule, size, stretches, section_id):
    bits = [(start // granule, div_up(end, granule)) for start, end in stretches]
    return Section(kind, granule.bit_length() - 1, size, bits, section_id)


def stated_parent(vector, link, length):
    """A parent of which only a link tells is a complete image in its first state, with the data of a base."""
    size = length - 2 * SLOT
    if "uuid" not in link or size < 0:
        return None
    header = Header(size, uuid=identity(link["uuid"]), epoch=identity(link["epoch"]))
    data = tagged("base", 0, size)
    stretches = BASE_OF_JOBS if "jobs" in vector.get("flags", ()) else [(0, size)]
    return new_file(header, {start: data[start:end] for start, end in stretches})
