#!/usr/bin/env python3
"""check.py DIRECTORY: holds spec/lvd.ksy and spec/qed.ksy against the tables of the pages and against the vectors.

DIRECTORY has the two descriptions as Python modules and as JSON (compile.js). The runtime `kaitaistruct` is needed
besides.

Compared are, with the tables, the names, order, places, sizes and enumerations of the fields of every structure that is
parsed; with the vectors, what parses and what does not, and by which rule, headers, which blocks are present, and all
that is told of bitmaps.
"""
import io
import json
import pathlib
import re
import sys

import kaitaistruct

sys.path.insert(0, sys.argv[1])
from lvd import Lvd         # noqa: E402
from qed import Qed         # noqa: E402

HERE = pathlib.Path(__file__).parent
SPEC = HERE.parents[1] / "spec"
PAGE, SECTOR_BITS = 4096, 3968
MANY_PAGES = 64             # of a section that has more only those are parsed that hold anything

# A text that is no UTF-8 is for the runtime to find.
FAULTS = kaitaistruct.ValidationFailedError, UnicodeDecodeError
RULES_OF_TEXTS = {"REC-08", "BMP-03", "QED-06"}

# The rules that fields of the descriptions are held to, each with the vectors that break a part of it which is out of
# their reach: what holds among all records, of other files, or of two slots of which none is whole.
EXPRESSED = {
    "HDR-01": [], "HDR-02": [], "HDR-03": [], "HDR-04": [], "HDR-07": [], "HDR-08": [],
    "HDR-10": [], "HDR-11": [], "HDR-12": [], "HDR-13": [], "HDR-14": [], "HDR-15": [], "HDR-16": [],
    "REC-01": [], "REC-02": [], "REC-03": [], "REC-04": [], "REC-05": [], "REC-06": [],
    "REC-07": ["chn-format-qcow2", "chn-format-vmdk", "chn-lower-qcow2"],
    "REC-08": [], "REC-10": [], "REC-11": [], "REC-12": [],
    "SEC-01": [], "SEC-02": [], "SEC-03": [], "SEC-04": [],
    "SEC-05": ["sec-overlap-same_place", "sec-overlap-allocation_unknown", "sec-overlap-at_2_61",
               "sec-overlap-lower_second", "sec-overlap-not_neighbours", "sec-overlap-one_page",
               "sec-overlap-spare_page", "sec-overlap-unknown_kinds", "sec-overlap-within"],
    "SEC-06": ["sec-id-twice", "sec-id-twice_unknown_kind", "sec-id-dirty_and_intent", "sec-id-dirty_twice",
               "sec-id-unknown_twice"],
    "SEC-07": ["sec-allocation-two", "sid-allocation-two"],
    "SEC-08": [],
    "SID-01": ["sid-host-missing", "sid-host-missing_no_section"],
    "SID-03": [], "SID-04": [],
    "GRP-01": ["grp-decision-missing"], "GRP-02": [], "GRP-03": [], "GRP-04": ["grp-mark-feature_alone"],
    "CHN-05": ["chn-visible-past_parent", "chn-visible-past_raw", "qed-visible-past_image", "chn-lower-visible",
               "chn-visible-block_past_raw", "chn-visible-of_empty_image", "chn-visible-of_empty_raw", "sid-over_cut"],
    "BMP-02": [],
    "BMP-03": ["bmp-frozen-twice", "bmp-name-twice", "bmp-name-twice_disabled"],
    "QED-01": [], "QED-02": [], "QED-03": [], "QED-04": [], "QED-05": [], "QED-06": [], "QED-07": [],
}

# Of two slots that are not whole the flaw that comes later is told of; a wrong checksum would be the last but one.
HDR_20 = [{"HDR-02"}, {"HDR-04"}, {"HDR-03"}]

# Fields are read in order, so of two rules that a file breaks it is not always the right one that is told of: HDR-08 of
# a header; that of HDR-20, and not HDR-01, of a file without room for two slots, none of which is whole; REC-01 of a
# header that goes on behind its records with what looks like another one; REC-05 of a record in whose payload more is wrong.
OTHER_RULE_FIRST = {
    "hdr-incompat-before_fields",
    "hdr-file-empty", "hdr-file-7_bytes", "hdr-file-half_header", "hdr-file-1_byte", "hdr-file-8_bytes",
    "hdr-file-9_bytes", "hdr-file-16_bytes", "hdr-file-74_bytes",
    "chn-lvd-is_empty", "chn-parent-cut_header", "sid-volume-swapped",
    "rec-walk-header_longer", "rec-walk-last_shorter",
    "rec-length-parent_and_format", "rec-reserved-section_and_kind", "sid-host-reserved_and_format",
}


def crc32c_entry(value):
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


CRC32C = [crc32c_entry(value) for value in range(256)]


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def descriptions():
    """Yield each part of the descriptions, with its path as errors have it."""
    def parts(path, part):
        yield path, part
        names = part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
        for name in names:
            yield from parts(f"{path}/{name}", part[name])

    for name in "lvd", "qed":
        yield from parts("", json.loads((pathlib.Path(sys.argv[1]) / f"{name}.json").read_text()))


def held_to():
    """Return {path of a field: rules that it is held to}; they are what its `doc` begins with."""
    rules = {}
    for path, part in descriptions():
        if isinstance(part, dict) and ("valid" in part or "contents" in part):
            cited = re.match(r"[A-Z]{3}-\d\d(, [A-Z]{3}-\d\d)*", part.get("doc", ""))
            assert cited, f"{path} does not say which rule it is held to"
            rules[path] = set(cited[0].split(", "))
    return rules


HELD_TO = held_to()


def rules_of(fault):
    return RULES_OF_TEXTS if isinstance(fault, UnicodeDecodeError) else HELD_TO[fault.src_path]


class Sparse(io.RawIOBase):
    """A file of a vector, read from its dump. What no line of the dump names is zero."""

    def __init__(self, length, dump):
        self.length, self.place, self.is_parsed = length, 0, False
        lines = (line.split(": ") for line in dump.read_text().splitlines()) if dump else ()
        self.lines = {int(offset, 16): bytes.fromhex(digits) for offset, digits in lines}
        assert all(offset % 16 == 0 for offset in self.lines)

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self.place

    def seek(self, offset, whence=io.SEEK_SET):
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.length}[whence]
        return self.place

    def readinto(self, buffer):
        start, end = self.place, max(self.place, min(self.place + len(buffer), self.length))
        first = start - start % 16
        data = b"".join(self.lines.get(at, b"").ljust(16, b"\0") for at in range(first, end, 16))
        buffer[:end - start] = data[start - first:end - first]
        self.place = end
        return end - start

    def slot(self, number):
        """Return the bytes of a header slot; what the file lacks of it is zero."""
        self.seek(number * 65536)
        return self.read(65536).ljust(65536, b"\0")

    def used_pages(self, offset, count):
        """Return which of `count` pages from `offset` on are not all zero."""
        numbers = {(at - offset) // PAGE for at in self.lines}
        return sorted(number for number in numbers if 0 <= number < count)


class Tables:
    """The tables of the specification, by the names of the classes that have to agree with them."""

    def __init__(self):
        text = "".join((SPEC / page).read_text() for page in ("format.md", "bitmaps.md", "groups.md", "chain.md", "foreign.md"))
        self.rows, self.enumerations = {}, {}
        for title, body in re.findall(r"### Table: (.+)\n\n\|.*\n\|.*\n((?:\|.*\n)+)", text):
            name = "".join(word.capitalize() for word in title.split())
            self.rows[name] = [[cell.strip() for cell in row.split("|")[1:-1]] for row in body.splitlines()]
            for *_, field, meaning in self.rows[name]:
                if re.fullmatch(r"\d+ \w+(, \d+ \w+)+", meaning):
                    values = (value.split() for value in meaning.split(", "))
                    self.enumerations[name, field] = {int(number): word for number, word in values}
        assert len(self.rows) == text.count("### Table:")
        body = re.search(r"\| type \| record \| payload bytes \|.*\n\|.*\n((?:\|.*\n)+)", text)[1]
        payloads = re.findall(r"\| (\d+) \| ([^|]+) \| (\d+)", body)
        self.enumerations["Record", "record_type"] = {int(kind): word.replace(" ", "_") for kind, word, _ in payloads}
        self.payloads = {int(kind): int(length) for kind, _, length in payloads}
        self.unseen = {*self.rows, *self.enumerations}

    def compare(self, structure):
        """Compare a structure, and all below it that was parsed together with it. Return the structure."""
        name, fields = type(structure).__name__, type(structure).SEQ_FIELDS
        places = structure._debug
        for row, field in zip(self.rows.get(name, ()), fields):
            value, begin = getattr(structure, field), places[fields[0]]["start"]
            bytes_of = {"uuid": Lvd.Uuid, "u8": int, "u16": int, "u32": int, "u64": int}.get(row[2], bytes)
            start, end = places[field]["start"] - begin, places[field]["end"] - begin
            assert [str(start), str(end - start), field] == [row[0], row[1], row[3]], f"{name}: {field} is not {row}"
            assert isinstance(value, bytes_of), f"{name}: {field} is not of type {row[2]}"
            enumeration = self.enumerations.get((name, field))
            if enumeration and type(value) is not int:          # it is for a value that has no name
                assert {member.value: member.name for member in type(value)} == enumeration, f"{name}: {field}"
                self.unseen.discard((name, field))
        if name in self.rows:
            assert len(self.rows[name]) <= len(fields), f"{name} lacks fields"
            self.unseen.discard(name)
        if name == "Record" and structure.is_known:
            assert structure.least_length == self.payloads[structure.record_type], f"length of {structure.record_type}"
        for field in fields:
            value = getattr(structure, field)
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, kaitaistruct.KaitaiStruct):
                    self.compare(part)
        return structure


tables = Tables()


def is_whole(slot):
    """Tell whether a writer meant to write this (format.md, section 2): what a checksum says, no description can."""
    length = int.from_bytes(slot[12:16], "little")
    if slot[:8] != b"\x89LVD\r\n\x1a\n" or length not in range(128, 65537, 8):
        return False
    return crc32c(slot[:16] + bytes(4) + slot[20:length]) == int.from_bytes(slot[16:20], "little")


def payloads(header, record_type):
    records = header.record_list.records
    return [record.payload for record in records if record.record_type == Lvd.RecordType[record_type]]


def first(header, record_type):
    return next(iter(payloads(header, record_type)), None)


def parse(format, file):
    file.is_parsed = True
    file.seek(0)
    parsed = format(kaitaistruct.KaitaiStream(file))
    parsed._read()
    return parsed


def read_slot(lvd, number):
    header = tables.compare(getattr(lvd, f"slot_{number}"))
    for link in payloads(header, "parent"):
        link.hint_text                                          # who asks for it is told that it is no text
    return header


def read_lvd(file):
    """Return the header that counts, or None if no slot is whole. Every slot that is whole parses (HDR-18)."""
    lvd = parse(Lvd, file)
    whole = [number for number in (0, 1) if is_whole(file.slot(number))]
    if whole:
        header = max((read_slot(lvd, number) for number in whole), key=lambda header: header.sequence)
        header.hdr_16
        for section in payloads(header, "section"):
            section.sec_08
        return header
    flaws = list(filter(None, (flaw_of(lvd, number) for number in (0, 1))))
    flaws.sort(key=lambda flaw: HDR_20.index(rules_of(flaw)))
    if len(flaws) == 2 or flaws and rules_of(flaws[-1]) == {"HDR-03"}:
        raise flaws[-1]
    return None                                                 # a wrong checksum comes before the other flaws


def flaw_of(lvd, number):
    """Return what is wrong with a slot that is not whole, in the fields that mean something in it."""
    try:
        read_slot(lvd, number)
    except kaitaistruct.ValidationFailedError as fault:
        if fault.src_path in [f"/types/header/seq/{place}" for place in (0, 1, 2)]:     # magic, version, header_length
            return fault


def read_qed(file):
    qed = tables.compare(parse(Qed, file))
    qed.header.backing_filename_text


def read_layers(case, files):
    """Return the headers that count of `open` and, or None, of `beside`. The layers below `open`, and the file of a
    group, are parsed too.
    """
    if "group" in case:
        read_lvd(files[case["group"]])
    top = header = read_lvd(files[case["open"]])
    for name in case.get("parents", ()):
        link = header and first(header, "parent")
        if link and link.format == Lvd.ParentFormat.qed:
            read_qed(files[name])
        header = read_lvd(files[name]) if link and link.format == Lvd.ParentFormat.lvd else None
    return top, read_lvd(files[case["beside"]]) if "beside" in case else None


def printed(uuid):
    return re.sub(r"(.{8})(.{4})(.{4})(.{4})(.{12})", r"\1-\2-\3-\4-\5", uuid.bytes.hex())


def allocation_of(header):
    sections = payloads(header, "section")
    return next((section for section in sections if section.kind == Lvd.SectionKind.allocation), None)


def header_facts(header):
    allocation = allocation_of(header)
    facts = {"kind": header.kind.name, "state": header.state.name, "sequence": header.sequence,
             "uuid": printed(header.uuid), "epoch": printed(header.epoch), "virtual_size": header.virtual_size,
             "data_offset": header.data_offset, "complete": allocation is None}
    if allocation:
        facts["granule"] = allocation.granule
    if link := first(header, "parent"):
        facts["parent"] = {"format": link.format.name, "visible_length": link.visible_length, "hint": link.hint_text}
        if link.has_identity:
            facts["parent"] |= {"uuid": printed(link.uuid), "epoch": printed(link.epoch)}
    if mark := first(header, "merge_mark"):
        facts["merge_mark"] = {"child_uuid": printed(mark.child_uuid), "child_epoch": printed(mark.child_epoch)}
    if mark := first(header, "copy_mark"):
        facts["copy_mark"] = printed(mark.group)
    if mark := first(header, "group_mark"):
        facts["group_mark"] = printed(mark.group)
    return facts


# Bits of sections


def pages_of(section, file):
    """Return the pages that can be read and may hold anything, and how many can be read."""
    count = min(section.page_count, max(file.length - section.offset, 0) // PAGE)
    if count == section.page_count <= MANY_PAGES:
        return section.pages, count
    pages = []
    for number in file.used_pages(section.offset, count):
        page = Lvd.Page(number, section._root._io, section, section._root)
        page._io.seek(section.offset + number * PAGE)
        page._read()
        pages.append(page)
    return pages, count


def is_right(sector, section):
    sealed = sector.bits + sector.index.to_bytes(8, "little") + sector.marker
    return sector.is_sealed and crc32c(section.id.bytes + sealed) == sector.checksum


def runs(section, file):
    """Yield the stretches of the disk of set bits, and of bits that are not known: start, end, whether known."""
    granule = section.granule
    pages, count = pages_of(section, file)
    for page in pages:
        for sector in tables.compare(page).sectors:
            base = sector.number * SECTOR_BITS
            if sector.is_empty:
                continue
            if is_right(sector, section):
                digits = f"{int.from_bytes(sector.bits, 'little'):b}"[::-1]
                for run in re.finditer("1+", digits):
                    yield (base + run.start()) * granule, (base + run.end()) * granule, True
            else:
                yield base * granule, (base + SECTOR_BITS) * granule, False
    if count < section.page_count:
        yield count * 8 * SECTOR_BITS * granule, section.page_count * 8 * SECTOR_BITS * granule, False


def united(stretches, size):
    """Return what stretches of a disk make up, as [offset, length], in order, each as long as can be."""
    result = []
    for start, end in sorted((start, min(end, size)) for start, end in stretches):
        if start >= end:
            continue
        if result and start <= sum(result[-1]):
            result[-1][1] = max(end, sum(result[-1])) - result[-1][0]
        else:
            result.append([start, end - start])
    return result


def compare_extents(case, header, file):
    """Compare who holds what, as far as the file says that is opened."""
    size, allocation = header.virtual_size, allocation_of(header)
    bits = list(runs(allocation, file)) if allocation else [(0, size, True)]
    for held, is_known in ("here", True), ("unreadable", False):
        found = united(((start, end) for start, end, known in bits if known == is_known), size)
        said = [[extent["offset"], extent["length"]] for extent in case["disk"]["extents"] if extent["held"] == held]
        if held == "unreadable" and not found and case.get("parents"):
            continue                                            # a parent may be to blame
        assert found == said, f"{held}: {found}, expected {said}"


# Bitmaps


def bitmaps_of(header):
    """Return the bitmaps with their sections, and the records that are none: name, rules, whether a field told."""
    bitmaps, none = [], []
    sections = {section.id.bytes: section for section in payloads(header, "section")
                if section.kind in (Lvd.SectionKind.dirty, Lvd.SectionKind.sync)}
    for payload in payloads(header, "bitmap"):
        name = payload.bytes[64:].decode(errors="replace")
        try:
            bitmap = payload.bitmap
            if bitmap is None:
                none.append((name, {"BMP-02", "BMP-03"}, True))         # too short to be one
                continue
            tables.compare(bitmap).name_text
        except FAULTS as fault:
            none.append((name, rules_of(fault), True))
            continue
        section = sections.get(bitmap.section.bytes)
        is_frozen = bitmap.state == Lvd.BitmapState.frozen
        if any(other.name == bitmap.name and (other.state == Lvd.BitmapState.frozen) == is_frozen
               for other, _ in bitmaps):
            none.append((name, {"BMP-03"}, False))
        elif not section or section.bit_count > 1 << 36 or any(section is other for _, other in bitmaps):
            none.append((name, {"BMP-04"}, False))
        else:
            bitmaps.append((bitmap, section))
    return bitmaps, none


def dirty_by_intents(header, file, dirty):
    """Yield what intents make dirty of a recording bitmap whose section is `dirty` (INT-02)."""
    unclean, granule = header.state == Lvd.State.writing, dirty.granule
    sections = payloads(header, "section")
    section = next((section for section in sections if section.kind == Lvd.SectionKind.intent), None)
    if section:
        reach = section.bit_count * section.granule
        bits = runs(section, file) if section.bit_count <= 65536 else [(0, reach, False)]
        for start, end, known in bits:
            if known or unclean:
                yield start // granule * granule, -(-min(end, reach) // granule) * granule
    covered = section.covered if section else 0
    if unclean and covered < dirty.covered:
        yield covered // granule * granule, 1 << 64


def dirty_stretches(header, file, bitmap, section, size):
    yield from ((start, end) for start, end, _ in runs(section, file))
    if section.covered < size:
        yield section.covered // section.granule * section.granule, size
    if bitmap.state == Lvd.BitmapState.recording:
        yield from dirty_by_intents(header, file, section)


def is_distrusted(header, image):
    """Tell whether a sidecar says that the disk changed behind its back; `image`: what the sidecar is beside, if so."""
    host = first(header, "host")
    if image:
        return image.epoch.bytes not in (header.epoch.bytes, host.former.bytes)                         # EPO-04
    # No file has the fingerprints of the vectors (EPO-07).
    fingerprint = tables.compare(host.fingerprint) if host else None
    return header.state == Lvd.State.closed and bool(fingerprint and (fingerprint.modified or fingerprint.inode))


def told(header, file, bitmaps, size, distrusted):
    """Yield what each of the bitmaps of a file tells, as the vectors say it."""
    for bitmap, section in bitmaps:
        parts = [(part, bits) for part, bits in bitmaps if part.name == bitmap.name]
        if bitmap.state != Lvd.BitmapState.frozen and len(parts) == 2:
            continue                                            # the successor of one that is frozen (BMP-08)
        trusted = next((part for part, _ in parts if part.state != Lvd.BitmapState.frozen), None)
        trust = "valid"
        if trusted is None or trusted.epoch.bytes != header.epoch.bytes or distrusted:
            trust = "missed_writes" if trusted and trusted.state == Lvd.BitmapState.disabled else "stale"
        stretches = [(0, size)]
        if trust != "stale":
            stretches = [stretch for part, bits in parts for stretch in dirty_stretches(header, file, part, bits, size)]
        yield {"name": bitmap.name_text, "sync": section.kind == Lvd.SectionKind.sync, "state": bitmap.state.name,
               "granularity": section.granule, "since": printed(bitmap.since), "trust": trust,
               "dirty": united(stretches, size)}


def point_of(header):
    points = [tables.compare(payload.point) for payload in payloads(header, "point") if payload.point]
    return {"source": printed(points[0].source), "point": printed(points[0].point)} if points else None


class Check:
    def __init__(self):
        self.parsed = self.raw = self.headers = self.extents = self.bitmaps = self.caught = 0
        self.out_of_reach = {}                                  # rule: how often it was
        self.expressed, self.beyond, self.failures = set(), set(), []

    def negative(self, name, broken, rules):
        """A file, or a bitmap, breaks one of the rules `broken`; a field that is held to `rules`, if any, caught it."""
        claimed = {rule for rule in broken if rule in EXPRESSED and name not in EXPRESSED[rule]}
        assert rules or not claimed, f"parses, but breaks {broken}"
        is_right = claimed & rules or not rules or name in OTHER_RULE_FIRST
        assert is_right, f"does not parse by {rules}, but breaks {broken}"
        if rules:
            self.caught += 1
            self.expressed |= claimed & rules
        else:
            self.beyond.add(name)
            for rule in broken:
                self.out_of_reach[rule] = self.out_of_reach.get(rule, 0) + 1

    def case(self, name, case, files):
        try:
            top, beside = read_layers(case, files)
        except FAULTS as fault:
            assert case["result"] not in ("valid", "damaged"), f"does not parse: {fault}"
            return self.negative(name, case["broken"], rules_of(fault))
        if case["result"] not in ("valid", "damaged"):
            return self.negative(name, case["broken"], set())
        found = header_facts(top)
        assert found == case["header"], f"header {found}, expected {case['header']}"
        self.headers += 1
        if "extents" in case["disk"]:
            compare_extents(case, top, files[case["open"]])
            self.extents += 1
        trackers = [(top, files[case["open"]], None)]
        if beside:
            trackers.append((beside, files[case["beside"]], top))
        self.compare_bitmaps(name, case, trackers)
        assert point_of(top) == case.get("point"), f"point {point_of(top)}"

    def compare_bitmaps(self, name, case, trackers):
        found, none = {}, []
        for header, file, image in trackers:
            bitmaps, others = bitmaps_of(header)
            none += others
            for bitmap in told(header, file, bitmaps, case["disk"]["size"], is_distrusted(header, image)):
                found[bitmap["name"]] = bitmap
        said = {bitmap["name"]: {"sync": False} | bitmap for bitmap in case.get("bitmaps", ())}
        assert found == said, f"bitmaps {found}, expected {said}"
        self.bitmaps += len(found)
        said = case.get("no_bitmaps", [])
        assert [what for what, *_ in none] == [what["name"] for what in said], f"no bitmaps {none}, expected {said}"
        for (_, rules, by_field), what in zip(none, said):
            assert what["broken"] in rules, f"no bitmap by {rules}, expected {what}"
            self.negative(name, [what["broken"]], rules if by_field else set())

    def vector(self, path):
        vector = json.loads(path.read_text())
        files = {file["name"]: Sparse(file["length"], path.parent / file["dump"] if "dump" in file else None)
                 for file in vector["files"]}
        for number, case in enumerate(vector["cases"]):
            try:
                self.case(vector["name"], case, files)
            except Exception as error:                          # of whatever kind: the other cases are checked still
                self.failures.append(f"{vector['name']}, case {number}: {type(error).__name__}: {error}")
        for name, file in files.items():
            if not file.is_parsed and name.endswith((".lvd", ".lvb")):      # what jobs are given, or nobody came to
                try:
                    read_lvd(file)
                except FAULTS as fault:
                    self.failures.append(f"{vector['name']}, {name}: does not parse: {fault}")
        self.parsed += sum(file.is_parsed for file in files.values())
        self.raw += sum(not file.is_parsed for file in files.values())

    def finish(self):
        """Say what was compared. Return how many comparisons failed."""
        fields, beyond = set().union(*HELD_TO.values()), set().union(*EXPRESSED.values())
        self.failures += [f"{rule}: no field is held to it, or no list has it" for rule in fields ^ {*EXPRESSED}]
        self.failures += [f"no vector shows that {rule} is expressed" for rule in {*EXPRESSED} - self.expressed]
        self.failures += [f"{name} is not out of reach" for name in beyond - self.beyond]
        self.failures += [f"no structure shows that {what} is right" for what in tables.unseen]
        for failure in self.failures:
            print(failure)
        rules = ", ".join(f"{rule} {times}" for rule, times in sorted(self.out_of_reach.items()))
        print(f"kaitai: {self.parsed} files parsed ({self.raw} are raw); compared {self.headers} headers,"
              f" {self.extents} lists of extents, {self.bitmaps} bitmaps, {len(tables.rows)} tables,"
              f" {len(tables.enumerations)} enumerations; {self.caught} negative cases caught by"
              f" {len(self.expressed)} rules, {sum(self.out_of_reach.values())} out of reach ({rules});"
              f" {len(self.failures)} failed")
        return len(self.failures)


def main():
    check = Check()
    for entry in json.loads((HERE.parent / "manifest.json").read_text())["vectors"]:
        check.vector(HERE.parent / entry["path"])
    sys.exit(check.finish() > 0)


if __name__ == "__main__":
    main()
