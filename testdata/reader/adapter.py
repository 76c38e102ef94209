#!/usr/bin/env python3
"""The adapter of this reader and checker: what ../run.py asks, one JSON object a line, and the answers to it.

It reads, and does nothing that a writer or a job does. See ../ADAPTER.md.
"""

import json
import os
import sys

import checker
import reader
from reader import Refusal, printed


class Adapter:
    """Each method answers the request of its name."""

    def __init__(self):
        self.disk = None

    def hello(self, request):
        return {"implementation": "reader.py", "features": ["sidecars", "groups", "qed", "bitmaps", "check"]}

    def open(self, request):
        if request.get("write"):
            return {"error": "this only reads"}
        override = ["CHN-04", "CHN-06"] * request.get("ignore_marks", False)
        override += ["CHN-03"] * request.get("trust_links", False)
        parents, depth = reader.given_parents(request.get("parents", ())), request.get("depth", 64)
        self.disk = reader.Disk(request["open"], parents, request.get("volume"), override, depth,
                                request.get("beside"), request.get("group"))
        return {"result": "valid", "header": header_of(self.disk)}

    def extents(self, request):
        return {"extents": [
            {"offset": extent.start, "length": extent.end - extent.start, "held": self.holder(extent)}
            for extent in self.disk.extents()]}

    def holder(self, extent):
        if extent.kind == "unreadable":
            return "unreadable"
        return "here" if extent.kind == "data" and extent.layer is self.disk.layers[0] else "below"

    def read(self, request):
        start, end = request["offset"], request["offset"] + request["length"]
        if end > self.disk.size:
            return {"error": f"the disk ends at {self.disk.size}"}
        return {"data": b"".join(map(self.part, self.disk.layers[0].extents(start, end))).hex()}

    def part(self, extent):
        if extent.kind == "unreadable":
            raise Refusal(extent.layer.bad_rule, f"[{extent.start}, {extent.end}) cannot be read")
        length = extent.end - extent.start
        return extent.layer.read(extent.start, length) if extent.kind == "data" else bytes(length)

    def bitmaps(self, request):
        bitmaps = [bitmap._asdict() | {"dirty": [(start, end - start) for start, end in bitmap.dirty]}
                   for bitmap in self.disk.bitmaps()]
        none = [{"name": name, "broken": rule} for name, rule in self.disk.no_bitmaps()]
        point = self.disk.layers[0].header.point()
        return {"bitmaps": bitmaps, "no_bitmaps": none} | ({"point": reader.as_json(point)} if point else {})

    def check(self, request):
        file = reader.File(request["open"])
        try:
            found = checker.check(file)
        finally:
            os.close(file.fd)
        failed = [stretch["why"] for stretch in found["unreadable"] if stretch["rule"] == "PAG-08"]
        if failed:
            return {"error": f"{request['open']}: {failed[0]}"}
        return {"rules": found["rules"], "told": [remark["rule"] for remark in found["told"]]}


def header_of(disk):
    header, link = disk.layers[0].header, disk.layers[0].link
    found = {"kind": reader.KINDS[header.kind], "state": reader.STATES[header.state],
             "uuid": printed(header.uuid), "epoch": printed(header.epoch), "sequence": header.sequence,
             "virtual_size": header.virtual_size, "data_offset": header.data_offset,
             "complete": header.allocation() is None}
    if header.allocation():
        found["granule"] = 1 << header.allocation().shift
    if link:
        found["parent"] = {"format": reader.FORMATS[link.format], "visible_length": link.visible_length,
                           "hint": link.hint.decode()}
        if link.flags & 1:
            found["parent"] |= {"uuid": printed(link.uuid), "epoch": printed(link.epoch)}
    if mark := header.first(reader.MERGE_MARK):
        found["merge_mark"] = {"child_uuid": printed(mark.child_uuid),
                               "child_epoch": printed(mark.child_epoch)}
    if mark := header.first(reader.COPY_MARK):
        found["copy_mark"] = printed(mark.group)
    if mark := header.first(reader.GROUP_MARK):
        found["group_mark"] = printed(mark.group)
    return found | {"compat": header.compat, "kept": kept(header)}


def kept(header):
    """Return the records that mean nothing here, but for those of bitmaps and points that break no rule."""
    known = [reader.BITMAP_LAYOUT.pack(*record[:-1]) + record.name for record in header.bitmaps()[0]]
    known += [point for point in header.optional[reader.POINT] if len(point) == reader.POINT_LAYOUT.size]
    records, _ = header.split_records()
    return [(record_type, flags, payload.hex()) for record_type, flags, payload, _ in records
            if record_type not in reader.RECORDS and payload not in known]


def main(adapter):
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(adapter, request["do"])(request)
        except Refusal as flaw:
            answer = {"result": flaw.result, "rule": flaw.rule, "error": flaw.message}
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Adapter())
