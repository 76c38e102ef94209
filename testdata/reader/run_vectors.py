#!/usr/bin/env python3
"""Run reader.py over the conformance vectors and compare with what they expect.

    run_vectors.py [--vectors DIR] [--scratch DIR] [--outcomes DIR] [NAME...]

Files are made, sparse, from hex dumps below the scratch directory. Those of the vectors with the flag `huge` need a file
system with files up to 2^61 bytes (tmpfs, xfs); they are skipped where the host cannot make them. What a vector does
after opening (`then`) is for writers: of such a case the open, the header and the disk before are compared. This holds
for the jobs of vectors with the flag `jobs` too, unless `--outcomes` names a folder where somebody else has done them:
`NAME/NUMBER/FILE` there are the files that case NUMBER (from 0) of NAME left, and are compared with its `finally`.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import sys
import tempfile

import checker
import reader

HERE = pathlib.Path(__file__).parent
SMALL = 64 << 20                                        # disks up to this size are read in full and hashed


def parse_dump(path):
    """Return {offset: bytes}: all that is not listed is zero."""
    lines = (line.split(":") for line in path.read_text().split("\n") if line)
    return {int(offset, 16): bytes.fromhex(data) for offset, data in lines}


def build(vector, folder, target):
    for file in vector["files"]:
        with open(target / file["name"], "wb") as out:
            out.truncate(file["length"])
            for offset, data in (parse_dump(folder / file["dump"]) if "dump" in file else {}).items():
                out.seek(offset)
                out.write(data)
            assert out.seek(0, 2) == file["length"], file["name"]


def held(extents, top):
    """Return extents as the vectors have them."""
    merged = []
    for extent in extents:
        here = "here" if extent.layer is top else "below"
        kind = "unreadable" if extent.kind == "unreadable" else here if extent.kind == "data" else "below"
        if merged and merged[-1]["held"] == kind:
            merged[-1]["length"] += extent.end - extent.start
        else:
            merged.append({"offset": extent.start, "length": extent.end - extent.start, "held": kind})
    return merged


def nonzero(disk):
    """Return the bytes of a disk that are not zero, as {page: bytes}. Holes of the files are not read."""
    pages = {}
    for extent in disk.extents():
        if extent.kind != "data":
            continue
        at = extent.start
        while at < extent.end:
            at = max(at, extent.layer.next_data(at))
            if at >= extent.end:
                break
            stop = min(at - at % 4096 + 4096, extent.end)
            data = extent.layer.read(at, stop - at)
            if any(data):
                page = pages.setdefault(at // 4096, bytearray(4096))
                page[at % 4096:at % 4096 + len(data)] = data
            at = stop
    return {number: bytes(page) for number, page in pages.items()}


def nonzero_of_dump(dump):
    pages = {}
    for offset, data in dump.items():
        for place, byte in enumerate(data, offset):
            if byte:
                pages.setdefault(place // 4096, bytearray(4096))[place % 4096] = byte
    return {number: bytes(page) for number, page in pages.items()}


def header_of(disk):
    header, link = disk.layers[0].header, disk.layers[0].link
    found = {"kind": reader.KINDS[header.kind], "state": reader.STATES[header.state], "sequence": header.sequence,
             "uuid": reader.printed(header.uuid), "epoch": reader.printed(header.epoch),
             "virtual_size": header.virtual_size, "data_offset": header.data_offset,
             "complete": header.allocation() is None}
    if header.allocation():
        found["granule"] = 1 << header.allocation().shift
    if link:
        found["parent"] = {"format": reader.FORMATS[link.format], "visible_length": link.visible_length,
                           "hint": link.hint.decode()}
        if link.flags & 1:
            found["parent"] |= {"uuid": reader.printed(link.uuid), "epoch": reader.printed(link.epoch)}
    if mark := header.first(reader.MERGE_MARK):
        found["merge_mark"] = {"child_uuid": reader.printed(mark.child_uuid),
                               "child_epoch": reader.printed(mark.child_epoch)}
    if mark := header.first(reader.COPY_MARK):
        found["copy_mark"] = reader.printed(mark.group)
    return found


def compare_disk(disk, expected, folder):
    if disk.size != expected["size"]:
        yield f"size {disk.size}, expected {expected['size']}"
    extents = list(disk.extents())
    if "extents" in expected and held(extents, disk.layers[0]) != expected["extents"]:
        yield f"extents {held(extents, disk.layers[0])}, expected {expected['extents']}"
    if "dump" in expected and nonzero(disk) != nonzero_of_dump(parse_dump(folder / expected["dump"])):
        yield "content differs from the dump"
    if "sha256" in expected:
        assert disk.size <= SMALL
        parts = (bytes(e.end - e.start) if e.kind == "zero" else e.layer.read(e.start, e.end - e.start) for e in extents)
        if hashlib.sha256(b"".join(parts)).hexdigest() != expected["sha256"]:
            yield "content differs from the hash"


def compare_bitmaps(disk, case):
    """Yield what the bitmaps tell otherwise than the case says; the order in which they are told of is free."""
    by_name = lambda bitmaps: {bitmap["name"]: {"sync": False} | bitmap for bitmap in bitmaps}
    stretches = lambda bitmap: [[start, end - start] for start, end in bitmap.dirty]
    found = by_name(bitmap._asdict() | {"dirty": stretches(bitmap)} for bitmap in disk.bitmaps())
    if found != by_name(case.get("bitmaps", ())):
        yield f"bitmaps {found}, expected {case.get('bitmaps')}"
    none = sorted(disk.no_bitmaps())
    if none != sorted((none["name"], none["broken"]) for none in case.get("no_bitmaps", ())):
        yield f"no bitmaps {none}, expected {case.get('no_bitmaps')}"
    point = disk.layers[0].header.point()
    if (point and reader.as_json(point)) != case.get("point"):
        yield f"backup point {point}, expected {case.get('point')}"


def header_in(path):
    file = reader.File(str(path))
    try:
        return reader.right_header(file)
    finally:
        os.close(file.fd)


def compare_after(case, header, before):
    """Yield what of a header is not as a case of `finally` says. `before` is the file as it was, if it was there."""
    after, link, mark = case["after"], header.first(reader.PARENT), header.first(reader.MERGE_MARK)
    found = {"state": reader.STATES[header.state]}
    if link:
        found["visible_length"] = link.visible_length
    if after.get("complete"):
        found["complete"] = not link and not header.allocation()
    if mark:
        found["merge_mark"] = {"child_uuid": reader.printed(mark.child_uuid),
                               "child_epoch": reader.printed(mark.child_epoch)}
    if before.exists():
        old = header_in(before)
        found["new_epoch"] = header.epoch != old.epoch
        if header.uuid != old.uuid or header.sequence < old.sequence:
            yield "another UUID or an older header"
    for field in set(after) | {"merge_mark"}:
        if found.get(field) != after.get(field):
            yield f"{field} {found.get(field)}, expected {after.get(field)}"


def compare_raw(case, path):
    data = path.read_bytes()
    if len(data) != case["disk"]["size"] or hashlib.sha256(data).hexdigest() != case["disk"]["sha256"]:
        yield "another content"


def run_finally(case, folder, target, left):
    """Yield what of the files in `left` is not as the cases of `finally` expect. `target` has them as before."""
    for last in case["finally"]:
        compare = compare_raw(last, left / last["open"]) if last.get("raw") else run_case(last, folder, left, target)
        yield from (f"finally, {last['open']} {last.get('parents', [])}: {text}" for text in compare)


def run_case(case, folder, target, before=None):
    """Yield what differs from what the case expects. Of files that were written, `before` is the folder as it was."""
    override = ["CHN-04", "CHN-06"] * case.get("ignore_marks", False) + ["CHN-03"] * case.get("trust_links", False)
    parents = [str(target / name) for name in case.get("parents", ())]
    volume = str(target / case["volume"]) if "volume" in case else None
    beside = str(target / case["beside"]) if "beside" in case else None
    path, depth = str(target / case["open"]), case.get("depth", 64)
    try:
        with reader.Disk(path, reader.given_parents(parents), volume, override, depth, beside) as disk:
            bad = next((extent.layer for extent in disk.extents() if extent.kind == "unreadable"), None)
            result, rule = ("damaged", bad.bad_rule) if bad else ("valid", None)
            if "header" in case and header_of(disk) != case["header"]:
                yield f"header {header_of(disk)}, expected {case['header']}"
            if "disk" in case:
                yield from compare_disk(disk, case["disk"], folder)
            yield from compare_bitmaps(disk, case)
            if before and "after" in case:
                yield from compare_after(case, disk.layers[0].header, before / case["open"])
    except reader.Refusal as flaw:
        result, rule = flaw.result, flaw.rule
        if "disk" in case:
            yield f"not opened: {flaw}"
    if result != case["result"]:
        yield f"result {result} ({rule}), expected {case['result']} {case.get('broken', '')}"
    if (rule in case["broken"]) if "broken" in case else (rule is None):
        pass
    else:
        yield f"rule {rule}, expected {case.get('broken')}"


def check_case(case, target):
    """The checker finds, among others, a rule that the reader is to refuse the top for, and nothing in a right file."""
    file = reader.File(str(target / case["open"]))
    try:
        answer = checker.check(file)
    finally:
        os.close(file.fd)
    if case["result"] in ("invalid", "damaged") and not set(case["broken"]) & set(answer["rules"]):
        yield f"check: {answer['rules']}, expected {case['broken']}"
    if case["result"] == "valid" and answer["rules"]:
        yield f"check: {answer['rules']}, expected none"
    told = {remark["rule"] for remark in answer["told"]}
    none = {none["broken"] for none in case.get("no_bitmaps", ()) if "beside" not in case}
    if not none <= told:
        yield f"check: {sorted(told)} told, expected {sorted(none)}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vectors", type=pathlib.Path, default=HERE.parent)
    parser.add_argument("--scratch", type=pathlib.Path)
    parser.add_argument("--outcomes", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    count = collections.Counter()
    for entry in json.loads((args.vectors / "manifest.json").read_text())["vectors"]:
        path = args.vectors / entry["path"]
        if args.names and entry["name"] not in args.names:
            continue
        text = path.read_bytes()
        vector = json.loads(text)
        differences = []
        if hashlib.sha256(text).hexdigest() != entry["sha256"]:
            differences.append("the manifest has another hash")
        with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
            target = pathlib.Path(scratch)
            try:
                build(vector, path.parent, target)
            except OSError as error:
                print(f"skip {vector['name']}: {error}")
                count["vectors skipped: host cannot make the files"] += 1
                continue
            for number, case in enumerate(vector["cases"]):
                if case.get("write") and case["result"] not in ("valid", "damaged"):
                    count["cases skipped: about writing"] += 1
                    continue
                count["cases"] += 1
                differences += [f"case {number}: {text}" for text in run_case(case, path.parent, target)]
                if "jobs" in vector.get("flags", ()) and not args.outcomes:
                    count["cases whose jobs were skipped"] += 1
                elif "finally" in case:
                    count["cases whose jobs somebody did"] += 1
                    found = run_finally(case, path.parent, target, args.outcomes / vector["name"] / str(number))
                    differences += [f"case {number}: {text}" for text in found]
                if "parents" not in case and case.get("broken", ["HDR"])[0] not in ("SID-02", "HDR-09"):
                    count["checks"] += 1
                    differences += [f"case {number}: {text}" for text in check_case(case, target)]
        count["vectors failed" if differences else "vectors passed"] += 1
        for text in differences:
            print(f"FAIL {vector['name']}: {text}")
    print(dict(count))
    return bool(count["vectors failed"])


if __name__ == "__main__":
    sys.exit(main())
