#!/usr/bin/env python3
"""Tests of writer.py and checker.py: the files of the vectors are made anew, and the reader reads what was written."""

import collections
import errno
import json
import os
import pathlib
import random
import tempfile
import unittest
from dataclasses import replace
from unittest import mock

import checker
import reader
from descriptions import Undescribed, load, parsed, stated
from reader import (ALLOCATION, CLOSED, DIRTY, DISABLED, FROZEN, IMAGE, INTENT, LVD, NIL, PAGE, RAW, RECORDING, SECTOR,
                    SECTOR_BITS, SIDECAR, SLOT, SYNC, WRITING, div_up, printed)
from writer import (Bitmap, CopyMark, Header, Host, MergeMark, Parent, Point, Section, Unknown, compose, create,
                    intent_shift, new_file)

VECTORS = pathlib.Path(__file__).parent.parent


class Vectors(unittest.TestCase):
    """The files with an LVD header of the conformance vectors, made anew."""

    def test_identical(self):
        made, others, on_purpose = collections.Counter(), collections.Counter(), 0
        for entry in json.loads((VECTORS / "manifest.json").read_text())["vectors"]:
            path = VECTORS / entry["path"]
            vector = json.loads(path.read_text())
            for listed in vector["files"]:
                if not listed["name"].endswith((".lvd", ".lvb")):
                    continue
                file = load(listed, path.parent)
                source = self.source(vector, path.parent, listed["name"], file)
                if source:
                    made[source] += 1
                    on_purpose += bool(checker.check(file)["rules"])
                else:
                    others[self.why_not(file)] += 1
        count = sum(made.values()) + sum(others.values())
        print(f"\nfiles of vectors made identically: {sum(made.values())} of {count}, {made['stated']} from what the "
              f"vector states, {made['parsed']} from a parsed description ({on_purpose} of all break a rule on "
              "purpose); not made: " + ", ".join(f"{number} {reason}" for reason, number in others.most_common()))
        self.assertGreaterEqual(sum(made.values()), count / 3)
        self.assertGreaterEqual(made["stated"], 230)
        self.assertGreaterEqual(made["parsed"], 480)
        self.assertEqual(others["for another reason"], 0)

    def source(self, vector, folder, name, file):
        """Return whence a description that makes the file comes, or None."""
        for source, describe in (("stated", lambda: stated(vector, folder, name, file)),
                                 ("parsed", lambda: parsed(file))):
            try:
                description = describe()
                if description and compose(description) == file:
                    return source
            except (Undescribed, ValueError):           # ValueError: the file is cut
                pass
        return None

    def why_not(self, file):
        """A description says what fields and bits say. What else a file may hold, a writer does not write."""
        answer = checker.check(file)
        if answer["result"] not in ("ok", "damaged"):
            return f"break {answer['rules'][0][:3]} rules in their bytes"
        try:
            compose(parsed(file))
        except Undescribed as reason:
            return f"with {reason}"
        except ValueError:
            return "that end too early"
        return "with bytes where nothing lies" if self.is_described(file) else "for another reason"

    def is_described(self, file):
        """Does the file say, byte for byte where anything lies, what is made from its description?"""
        made, description = compose(parsed(file)), parsed(file)
        ranges = []
        for slot, header in zip((0, SLOT), description.slots):
            ranges += [(slot, slot + len(header.composed()))] if header else []
        for header in filter(None, description.slots):
            ranges += [(section.offset, section.offset + section.needed * SECTOR)
                       for section in header.sections]
        newest = max(filter(None, description.slots), key=lambda header: header.sequence)
        ranges += [(newest.data_offset, newest.data_offset + newest.virtual_size)] * (newest.kind != SIDECAR)
        for number in made.pages.keys() | file.pages.keys():
            for start, end in ranges:
                start, end = max(start, number * PAGE), min(end, number * PAGE + PAGE)
                if start < end and made.read(start, end - start) != file.read(start, end - start):
                    return False
        return True


class Case(unittest.TestCase):
    def setUp(self):
        self.random = random.Random(self.id())
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder, self.count = pathlib.Path(folder.name), 0

    def path(self):
        self.count += 1
        return str(self.folder / str(self.count))

    def made(self, description):
        """Make a file; the checker finds nothing, and what it says is what was described."""
        path = self.path()
        create(path, description)
        file = reader.File(path)
        self.addCleanup(os.close, file.fd)
        answer = checker.check(file)
        self.assertEqual((answer["result"], answer["rules"], answer["unreadable"]), ("ok", [], []))
        self.assertEqual(pathlib.Path(path).stat().st_size, description.length)
        return path

    def raw(self, data):
        path = self.path()
        pathlib.Path(path).write_bytes(data)
        return path

    def content(self, path, parents=(), **options):
        with reader.Disk(path, reader.given_parents(parents), **options) as disk:
            parts = [bytes(extent.end - extent.start) if extent.kind == "zero" else
                     extent.layer.read(extent.start, extent.end - extent.start) for extent in disk.extents()]
        return b"".join(parts)

    def random_size(self):
        return self.random.choice([0, 1, 511, 512, 4095, 4096, 4097, 65537, self.random.randrange(300000)])

    def random_runs(self, bits):
        ends = sorted(self.random.sample(range(bits + 1), self.random.randrange(bits // 2 + 2) // 2 * 2))
        return list(zip(ends[::2], ends[1::2]))


class Files(Case):
    def test_worked_example(self):
        """The bytes of format.md, section 11."""
        def named(first):
            return bytes(range(first, first + 16))
        section = Section(ALLOCATION, 12, 1000000, [(0, 1), (2, 3), (244, 245)], named(0x30))
        header = Header(1000000, [section, Parent(RAW, 600000, hint="base.raw")], sequence=3, uuid=named(0x10),
                        epoch=named(0x50))
        description = new_file(header)
        file = compose(description)
        self.assertEqual((header.data_offset, description.length), (196608, 1196608))
        self.assertEqual(file.read(0, 32).hex(), "894c56440d0a1a0a0100000010010000"
                         "93a22cbf010000000300000000000000")
        self.assertEqual(file.read(0x80, 0x90).hex(), (
            "0100010038000000303132333435363738393a3b3c3d3e3f01000c0000000000"
            "0000020000000000001000000000000040420f00000000000000000000000000"
            "0200010048000000" + "00" * 32 + "0000000002000000c0270900000000000800000000000000"
            "0000000000000000626173652e726177"))
        self.assertEqual(file.read(0x20000, 32).hex(), "05" + "00" * 29 + "1000")
        self.assertEqual(file.read(0x201f0, 16).hex(), "00000000000000005345414c8646f81d")
        self.assertEqual(file.read(0, SLOT), file.read(SLOT, SLOT))

    def test_complete(self):
        for _ in range(12):
            data = self.random.randbytes(self.random_size())
            path = self.made(new_file(Header(len(data)), {0: data} if data else {}))
            self.assertEqual(self.content(path), data)

    def test_overlays(self):
        """Two overlays on a raw file or a complete image; sizes, granules and visible lengths do not fit each other."""
        for _ in range(12):
            content = self.random.randbytes(self.random_size())
            path, parents, link = self.raw(content), [], Parent(RAW, 0)
            if self.random.random() < 0.5:
                header = Header(len(content))
                path = self.made(new_file(header, {0: content} if content else {}))
                link = Parent(LVD, 0, header.uuid, header.epoch, "base")
            for _ in range(2):
                header, own, expected = self.random_overlay(link, content)
                parents, content = [path, *parents], expected
                path = self.made(new_file(header, {0: own} if own else {}))
                self.assertEqual(self.content(path, parents), expected)
                link = Parent(LVD, 0, header.uuid, header.epoch)

    def random_overlay(self, link, below):
        """Return the header of an overlay, the bytes of its data area, and what is read by format.md, section 7."""
        size, shift = self.random_size(), self.random.randrange(12, 25)
        section = Section(ALLOCATION, shift, size, self.random_runs(div_up(size, 1 << shift)))
        link = replace(link, visible_length=self.random.randrange(min(size, len(below)) + 1))
        own = self.random.randbytes(size)
        expected = bytearray(below[:link.visible_length].ljust(size, b"\0"))
        for first, end in section.bits:
            expected[first << shift:end << shift] = own[first << shift:end << shift]
        return Header(size, [section, link]), own, bytes(expected)

    def test_sidecars(self):
        for _ in range(6):
            below = self.random.randbytes(self.random_size())
            header, own, expected = self.random_overlay(Parent(RAW, 0), below)
            volume = own + self.random.randbytes(self.random.randrange(1000))
            header = replace(header, kind=SIDECAR, records=header.records + [Host(RAW, len(volume))])
            path, volume = self.made(new_file(header)), self.raw(volume)
            self.assertEqual(self.content(path, [self.raw(below)], volume=volume), expected)

    def test_bitmaps(self):
        """Dirty bitmaps of an image, of a volume, and of an image but in a sidecar; in open sessions with intents."""
        for number in range(18):
            size, epoch = self.random_size(), self.random.randbytes(16)
            unclean = self.random.random() < 0.5
            intents = Section(INTENT, self.random.randrange(12, 18), size)
            intents.bits = self.random_runs(div_up(size, 1 << intents.shift)) if unclean else []
            records, expected = [intents], {}
            for name in ("a", "ü" * 511, "sync"):
                section = Section(SYNC if name == "sync" else DIRTY, self.random.randrange(12, 25), size)
                section.bits = self.random_runs(div_up(size, 1 << section.shift))
                bitmap = Bitmap(name, section.id, self.random.choice([epoch, NIL[1:] + b"\1"]),
                                self.random.choice([DISABLED, RECORDING]))
                records += [section, bitmap]
                expected[name] = self.dirty(size, epoch, bitmap, section, intents)
            kind, host = ((IMAGE, []), (SIDECAR, [Host(RAW, size)]), (SIDECAR, [Host(LVD, size)]))[number % 3]
            header = Header(size, records + host, kind, WRITING if unclean else CLOSED, epoch=epoch)
            path, options = self.made(new_file(header)), {}
            if kind == SIDECAR:
                image, volume = replace(header, records=[], kind=IMAGE), self.raw(bytes(size))
                options = {"volume": volume} if host[0].format == RAW else {"beside": path}
                path = path if host[0].format == RAW else self.made(new_file(image))
            with reader.Disk(path, **options) as disk:
                told = {bitmap.name: (bitmap.trust, bitmap.dirty) for bitmap in disk.bitmaps()}
            self.assertEqual(told, expected)

    def dirty(self, size, epoch, bitmap, section, intents):
        """Return trust and dirty stretches of a bitmap, from bitmaps.md, section 2, granule by granule."""
        if bitmap.epoch != epoch and bitmap.state == RECORDING:
            return "stale", [(0, size)] if size else []
        set_bits = {bit for first, end in section.bits for bit in range(first, end)}
        for first, end in intents.bits if bitmap.state == RECORDING else ():
            first, end = first << intents.shift, end << intents.shift
            set_bits |= set(range(first >> section.shift, div_up(end, 1 << section.shift)))
        stretches = ((bit << section.shift, (bit + 1) << section.shift) for bit in set_bits)
        return "valid" if bitmap.epoch == epoch else "missed_writes", reader.united(stretches, size)

    def test_frozen(self):
        """A frozen bitmap and its successor are one (BMP-08); points and unknown records stand behind them."""
        sections = [Section(DIRTY, 12, 40000, [(0, 1)]), Section(DIRTY, 13, 40000, [(2, 3)])]
        header = Header(40000, [*sections, CopyMark()])
        for section, state in zip(sections, (FROZEN, RECORDING)):
            header.records.append(Bitmap("b", section.id, header.epoch, state))
        header.records += [Point(header.uuid, NIL), Unknown(700, b"kept")]
        with reader.Disk(self.made(new_file(header)), override=["CHN-06"]) as disk:
            told, = disk.bitmaps()
            self.assertEqual(disk.layers[0].header.point(), (header.uuid, NIL))
        self.assertEqual((told.state, told.trust, told.dirty), ("frozen", "valid", [(0, 4096), (16384, 24576)]))

    def test_limits(self):
        """The largest disk with the coarsest and the finest blocks, and with all that a header holds."""
        for shift in (12, 24):
            bits = 1 << 60 - shift
            section = Section(ALLOCATION, shift, 1 << 60, [(0, 1), (3967, 3969), (bits - 1, bits)])
            dirty = [Section(DIRTY, 24, 1 << 20) for _ in range(63)]
            link = Parent(RAW, 1 << 60, hint="h" * 4096)
            header = Header(1 << 60, [section, *dirty, link], sequence=(1 << 63) - 1)
            description = new_file(header)
            header.records.append(Unknown(700, bytes(SLOT - len(header.composed()) - 8)))
            file = compose(description)
            self.assertEqual(len(header.composed()), SLOT)
            self.assertEqual(checker.check(file)["rules"], [])
            self.assertEqual(parsed(file), description)
            layer = reader.Layer(file, reader.right_header(file))
            layer.parent = reader.Layer(mock.Mock(length=1 << 60))
            found = [(extent.start >> shift, extent.end >> shift)
                     for extent in layer.extents(0, 1 << 60) if extent.layer is layer]
            self.assertEqual(found, [(0, 1), (3967, 3968), (3968, 3969), (bits - 1, bits)])

    def test_descriptions(self):
        """What was described is what is found: the bytes hold all of a description, and each once."""
        for _ in range(20):
            header, own, _ = self.random_overlay(Parent(LVD, 0, b"u" * 16, b"e" * 16, "ü"), bytes(70000))
            bitmap = Section(DIRTY, 12, len(own), self.random_runs(div_up(len(own), PAGE)))
            header.records += [bitmap, MergeMark(b"c" * 16, b"d" * 16)]
            header.records += [Bitmap("b", bitmap.id, header.epoch, DISABLED)]
            header.records.sort(key=lambda record: record.type)
            older = replace(header, sequence=1)
            description = replace(new_file(replace(header, sequence=2)), data={})
            older.data_offset = description.slots[0].data_offset
            for slots in ((older, description.slots[0]), (None, older), (older, None)):
                written = replace(description, slots=slots)
                self.assertEqual(parsed(compose(written)), written)

    def test_intents(self):
        for size, shift in ((0, 16), (1 << 28, 16), ((1 << 28) + 1, 17), (1 << 36, 24), ((1 << 36) + 1, 21),
                            (1 << 40, 24), ((1 << 40) + 1, 25), (1 << 60, 44)):
            self.assertEqual(intent_shift(size), shift)


class Creation(Case):
    def test_refused(self):
        """What a reader must refuse is not written."""
        section, link = Section(ALLOCATION, 12, 8192), Parent(RAW, 0)
        for rule, header in (("HDR-08", Header(0, incompat=1)),
                             ("HDR-11", Header(0, state=3)),
                             ("HDR-12", Header(0, uuid=NIL)),
                             ("HDR-13", Header((1 << 60) + 1)),
                             ("HDR-15", Header(0, sequence=1 << 63)),
                             ("REC-03", Header(0, [Unknown(700, b"", True)])),
                             ("REC-06", Header(8192, [section, link, link])),
                             ("REC-08", Header(8192, [section, replace(link, hint="\0")])),
                             ("REC-09", Header(0, [link])),
                             ("SEC-02", Header(0, [Section(DIRTY, 11, 0)])),
                             ("SEC-04", Header(8192, [replace(section, length=0)])),
                             ("SEC-06", Header(8192, [section, Section(DIRTY, 12, 0, id=section.id)])),
                             ("SEC-07", Header(4096, [section])),
                             ("SID-01", Header(0, kind=SIDECAR)),
                             ("SID-04", Header(2, [Host(RAW, 1)], SIDECAR)),
                             ("CHN-05", Header(8192, [section, replace(link, visible_length=8193)]))):
            path = self.path()
            with self.assertRaises(reader.Refusal) as refusal:
                create(path, new_file(header))
            self.assertEqual(refusal.exception.rule, rule)
            self.assertFalse(os.path.exists(path))

    def test_existing(self):
        path = self.raw(b"somebody's")
        with self.assertRaises(FileExistsError):
            create(path, new_file(Header(0)))
        self.assertEqual(pathlib.Path(path).read_bytes(), b"somebody's")

    def test_order(self):
        """A header is written when what it vouches for is durable; the directory is last (ordering.md, section 7)."""
        events, pwrite = [], os.pwrite

        def written(fd, data, offset):
            events.append("slot" if offset < 2 * SLOT else "content")
            return pwrite(fd, data, offset)
        header = Header(8192, [Section(ALLOCATION, 12, 8192, [(0, 2)])])
        with mock.patch("os.pwrite", written), mock.patch("os.fsync", lambda fd: events.append("barrier")):
            create(self.path(), new_file(header, {0: b"data"}))
        self.assertEqual(events, ["content", "content", "barrier", "slot", "slot", "barrier", "barrier"])


class Checks(Case):
    def test_all_rules(self):
        """Each rule is reported, not the first alone, and each sector that cannot be read."""
        size = 3 * SECTOR_BITS * PAGE
        bits = Section(ALLOCATION, 12, size, [(0, size >> 12)])
        dirty = Section(DIRTY, 12, size, sealed={0, 1, 2})
        header = Header(size, [bits, dirty, Unknown(700, b"abc")], state=7, ro_compat=2)
        header.records += [Bitmap("a", dirty.id, NIL, DISABLED), Bitmap("", dirty.id, header.epoch, RECORDING)]
        description = new_file(header)
        file = compose(description)

        def rules():
            answer = checker.check(file)
            stretches = [(found["kind"], found["first"], found["end"]) for found in answer["unreadable"]]
            return answer["rules"], stretches
        self.assertEqual(rules(), (["HDR-11"], []))
        for section, number in ((bits, 1), (bits, 2), (dirty, 0)):
            file.write(section.offset + number * SECTOR + 100, b"\1\2")
        self.assertEqual(rules(), (["HDR-11", "PAG-01"], [("allocation", 1, 3), ("dirty", 0, 1)]))
        header.virtual_size -= 1                        # no longer what the allocation section covers
        header.uuid = NIL
        file.write(0, compose(description).read(0, SLOT))
        self.assertEqual(rules()[0], ["HDR-11", "HDR-12", "SEC-07", "PAG-01"])      # of both slots, which differ
        file.length = 2 * SLOT
        self.assertEqual(rules(), (["HDR-11", "HDR-12", "SEC-07", "PAG-01"],        # no slot is right: step 4 is left out
                                   [("allocation", 0, 3), ("dirty", 0, 3)]))

    def test_not_known(self):
        """What is missing is not known if a record breaks REC-05, or the records do not fill the header."""
        for name, rules in (("rec-reserved-section_and_kind", ["REC-05"]), ("rec-length-parent_and_format", ["REC-05"]),
                            ("sid-host-reserved_and_format", ["REC-05"]), ("sid-host-longer", ["REC-05"]),
                            ("sid-host-missing", ["SEC-09", "SID-01"]), ("sid-kind-4", ["HDR-10"]),
                            ("sid-walk-none_counted", ["REC-01"]), ("sid-host-two", ["REC-06"])):
            with self.subTest(name):
                folder = VECTORS / "vectors" / name[:3]
                vector = json.loads((folder / f"{name}.json").read_text())
                self.assertEqual(checker.check(load(vector["files"][0], folder))["rules"], rules)

    def test_failing_page(self):
        """A page that the host fails to read is no bad sector."""
        section = Section(ALLOCATION, 12, 40000, [(0, 9)])
        file = compose(new_file(Header(40000, [section])))
        read = file.read

        def failing(offset, *more, **named):
            if offset == section.offset:
                raise OSError(errno.EIO, "")
            return read(offset, *more, **named)
        with mock.patch.object(file, "read", failing):
            answer = checker.check(file)
        self.assertEqual((answer["result"], answer["broken"]), ("error", []))
        self.assertEqual([bad["rule"] for bad in answer["unreadable"]], ["PAG-08"])

    def test_told(self):
        """What costs nothing of the disk breaks no rule for the reader, but is told."""
        section = Section(DIRTY, 12, 40000, [(0, 9)])
        header = Header(40000, [section], state=WRITING, ro_compat=2)
        header.records += [Bitmap("a", section.id, b"o" * 16, RECORDING), CopyMark()]
        header.records += [Bitmap("b", section.id, header.epoch, DISABLED)]
        file = compose(replace(new_file(header), slots=(header, None)))
        file.write(section.offset, b"bad")
        answer = checker.check(file)
        self.assertEqual((answer["result"], answer["broken"]), ("ok", []))
        self.assertEqual([remark["rule"] for remark in answer["told"]],
                         ["HDR-17", "ORD-20", "HDR-09", "CHN-06", "BMP-04", "BMP-06"])
        bad, = answer["unreadable"]
        self.assertEqual((bad["section"], bad["why"], bad["disk"], bad["rule"]),
                         (printed(section.id), "a wrong checksum", [0, 40000], "PAG-01"))

    def test_volume(self):
        header = Header(100, [Host(RAW, 100, former=b"f" * 16)], SIDECAR)
        file, volume = compose(new_file(header)), mock.Mock(length=99, path="volume")
        self.assertEqual(checker.check(file, volume)["rules"], ["SID-02"])
        volume.length = 100
        self.assertEqual([remark["rule"] for remark in checker.check(file, volume)["told"]], ["EPO-07"])
        self.assertEqual(checker.check(compose(new_file(Header(100))), volume)["rules"], ["SID-05"])


if __name__ == "__main__":
    unittest.main()
