#!/usr/bin/env python3
"""Tests of reader.py on images that are built here by hand, from the specification."""

import fcntl
import hashlib
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unittest

import checker
import reader

MiB = 1 << 20
U = lambda n: bytes([n]) * 16


def crc(data):                                          # bit by bit, independent of the table in reader.py
    c = 0xFFFFFFFF
    for b in data:
        c ^= b
        for _ in range(8):
            c = (c >> 1) ^ (0x82F63B78 * (c & 1))
    return c ^ 0xFFFFFFFF


def record(kind, payload, flags=1):
    return struct.pack("<HHI", kind, flags, len(payload)) + payload + bytes(-len(payload) % 8)


def section(sid, offset, length, covered, kind=1, shift=12, flags=1, res=b"\0" * 5, res2=0):
    return record(1, struct.pack("<16sHB5sQQQQ", sid, kind, shift, res, offset, length, covered, res2), flags)


def parent(uuid, epoch, visible, fmt=1, flags=1, hint=b"", rflags=1):
    return record(2, struct.pack("<16s16sIIQI12s", uuid, epoch, flags, fmt, visible, len(hint), bytes(12)) + hint, rflags)


def merge(child, epoch):
    return record(3, struct.pack("<16s16s16s", child, epoch, bytes(16)))


def copymark(group=bytes(16)):
    return record(4, struct.pack("<16s16s", group, bytes(16)))


def host(length, fmt=2, former=bytes(16)):
    return record(5, struct.pack("<I4sQ16s", fmt, bytes(4), length, former))


def bitmap(name, sid, state=1, since=U(90), epoch=U(2), flags=0, res=bytes(12)):
    return record(6, struct.pack("<16s16s16sHH12s", sid, since, epoch, state, len(name), res) + name, flags)


def header(size, records=(), kind=1, state=0, seq=1, uuid=U(1), epoch=U(2), data=131072, incompat=0, ro=0, compat=0,
           count=None, reserved=bytes(20), version=1, length=None, checksum=None, magic=reader.MAGIC):
    body = b"".join(records)
    length = 128 + len(body) if length is None else length
    count = len(records) if count is None else count
    def fixed(c):
        return struct.pack("<8sIIIHHQ16s16sQQQQQI20s", magic, version, length, c, kind, state, seq, uuid, epoch, size,
                           data, incompat, ro, compat, count, reserved)
    whole = (fixed(0) + body)
    return fixed(crc(whole.ljust(length, b"\0")[:length]) if checksum is None else checksum) + body


def sectors(sid, bits, count=None):
    """bits: set of numbers"""
    n = (max(bits, default=0) // 3968) + 1 if count is None else count
    out = b""
    for s in range(n):
        mine = [b - s * 3968 for b in bits if b // 3968 == s]
        if not mine:
            out += bytes(512)
            continue
        p = bytearray(496)
        for b in mine:
            p[b // 8] |= 1 << b % 8
        sec = bytes(p) + struct.pack("<Q4s", s, b"SEAL")
        out += sec + struct.pack("<I", crc(sid + sec))
    return out


class Case(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory()
        self.addCleanup(self.tmp.cleanup)
        self.n = 0

    def path(self, name=None):
        self.n += 1
        return os.path.join(self.tmp.name, name or f"f{self.n}")

    def build(self, slot0, slot1=None, parts=(), length=None, name=None):
        path = self.path(name)
        with open(path, "wb") as f:
            f.write(slot0)
            f.seek(65536)
            f.write(slot0 if slot1 is None else slot1)
            for at, data in parts:
                f.seek(at)
                f.write(data)
            if length is not None:
                f.truncate(length)
            elif f.seek(0, 2) < 131072:
                f.truncate(131072)
        return path

    def complete(self, data, **kw):
        return self.build(header(len(data), **kw), parts=[(131072, data)], length=131072 + len(data))

    def overlay(self, size, blocks, data, link=None, shift=12, sid=U(9), extra=(), **kw):
        """data: the full bytes of the data area (garbage included)"""
        recs = [section(sid, 131072, 4096 * 2, size, shift=shift)]
        if link:
            recs.append(link)
        recs += extra
        off = 131072 + 8192
        return self.build(header(size, recs, data=off, **kw), parts=[(131072, sectors(sid, blocks)), (off, data)],
                          length=off + size)

    def raw(self, data):
        path = self.path()
        with open(path, "wb") as f:
            f.write(data)
        return path

    def content(self, path, *parents, **kw):
        with reader.Disk(path, reader.given_parents(parents), **kw) as disk:
            out = b""
            for e in disk.extents():
                assert e.start == len(out)
                n = e.end - e.start
                out += {"data": lambda: e.layer.read(e.start, n), "zero": lambda: bytes(n),
                        "unreadable": lambda: b"?" * n}[e.kind]()
            return out

    def fails(self, rule, path, *parents, result=None, **kw):
        with self.assertRaises(reader.Refusal) as c:
            self.content(path, *parents, **kw)
        self.assertEqual(c.exception.rule, rule, c.exception.message)
        if result:
            self.assertEqual(c.exception.result, result)

    def fails_header(self, rule, result="invalid", size=0, records=(), length=MiB, **kw):
        path = self.build(header(size, records, **kw), length=length)
        self.fails(rule, path, result=result)

    def cli(self, *args, script=reader):
        p = subprocess.run([sys.executable, script.__file__, *args], capture_output=True, text=True)
        self.assertEqual(p.stderr, "")
        return p.returncode, json.loads(p.stdout)

    def check(self, path):
        code, answer = self.cli(path, script=checker)
        self.assertEqual(code, bool(answer["rules"]))
        return answer


class Basics(Case):
    def test_crc(self):
        self.assertEqual(reader.crc32c(b"123456789"), 0xE3069283)
        self.assertEqual(crc(b"123456789"), 0xE3069283)

    def test_complete(self):
        data = random.randbytes(70001)
        self.assertEqual(self.content(self.complete(data)), data)
        self.assertEqual(self.content(self.complete(b"")), b"")

    def test_cli(self):
        data = random.randbytes(3 * MiB + 5)
        path, out = self.complete(data), self.path()
        code, answer = self.cli("read", path, "-o", out)
        self.assertEqual((code, answer["sha256"]), (0, hashlib.sha256(data).hexdigest()))
        self.assertEqual(pathlib.Path(out).read_bytes(), data)
        self.assertEqual(self.cli("info", path)[1]["virtual_size"], len(data))
        self.assertEqual(self.check(path)["rules"], [])
        self.assertEqual(self.check(self.raw(b"x"))["rules"], ["HDR-02"])


class Slots(Case):
    def test_choice(self):
        a, b = header(0, seq=7, epoch=U(7)), header(0, seq=6, epoch=U(6))
        torn = a[:40] + b"!" + a[41:]
        def chosen(x, y):
            with reader.Disk(self.build(x, y)) as disk:
                return disk.layers[0].header.epoch
        self.assertEqual(chosen(a, b), U(7))
        self.assertEqual(chosen(b, a), U(7))
        self.assertEqual(chosen(torn, b), U(6))
        self.assertEqual(chosen(b"", b), U(6))
        self.assertEqual(chosen(b"noise", b), U(6))
        v2torn = header(0, version=2, checksum=1)
        self.assertEqual(chosen(v2torn, b), U(6))
        noise = b"noise"
        for x, y, rule in ((a, header(0, seq=7), "HDR-06"), (a, header(0, seq=6, incompat=1), "HDR-08"),
                           (a, header(0, seq=6, uuid=U(6)), "HDR-23"),
                           (header(0, seq=7, state=3), b, "HDR-11"), (header(0, version=2), b, "HDR-03"),
                           (b"", torn, "HDR-05"), (noise, torn, "HDR-05"), (torn, noise, "HDR-05"),
                           (noise, noise, "HDR-02"), (b"", b"", "HDR-02"), (v2torn, torn, "HDR-03"),
                           (torn, v2torn, "HDR-03"), (header(0, length=100, checksum=0), noise, "HDR-04"),
                           (header(0, length=100, checksum=0), torn, "HDR-05"),
                           (header(0, length=65544, checksum=0), noise, "HDR-04"),
                           (header(0, length=132, checksum=0), noise, "HDR-04")):
            self.fails(rule, self.build(x, y))

    def test_after_length(self):
        a = header(0)
        self.assertEqual(self.content(self.build(a + b"junk", a + b"other")), b"")

    def test_short(self):
        self.fails("HDR-01", self.build(header(0), length=131071))
        self.fails("HDR-02", self.raw(b""))
        self.fails("HDR-01", self.raw(header(0)))


class Fields(Case):
    def test_fields(self):
        f = self.fails_header
        f("HDR-07", reserved=bytes(19) + b"\1")
        f("HDR-08", "unsupported", incompat=1 << 63)
        f("HDR-10", "unsupported", kind=4)
        f("HDR-11", state=3)
        f("HDR-12", uuid=bytes(16))
        f("HDR-12", epoch=bytes(16))
        f("HDR-13", size=(1 << 60) + 1)
        f("HDR-14", data=131072 + 512)
        f("HDR-14", data=65536)
        f("HDR-14", data=(1 << 60) + 4096)
        f("HDR-15", seq=0)
        f("HDR-15", seq=1 << 63)
        f("HDR-16", size=MiB)
        f("HDR-16", size=1 << 60)
        f("SID-01", kind=2, data=0)
        f("HDR-14", kind=2, records=[host(10)])

    def test_groups(self):
        """A copy is one if the file of its group says moved, and that file is no disk."""
        decided = lambda group, decision: self.build(
            header(0, [record(9, struct.pack("<I12x", decision))], kind=3, data=0, uuid=U(group)))
        copy = self.build(header(0, [copymark(U(1))]))
        self.assertEqual(self.content(copy, group=decided(1, 1)), b"")
        self.fails("CHN-06", copy)
        self.fails("CHN-06", copy, group=decided(1, 0))
        self.fails("CHN-06", copy, group=decided(2, 1))
        self.fails("GRP-03", copy, group=decided(1, 2), result="unsupported")
        self.fails("GRP-05", copy, group=copy, result="refused")
        self.fails("GRP-05", decided(1, 1), result="refused")
        in_group = [record(8, U(1) + bytes(16), flags=0)]
        self.assertEqual(self.content(self.build(header(0, in_group, ro=1))), b"")
        self.fails_header("GRP-04", records=in_group)
        self.fails_header("GRP-04", ro=1)

    def test_ro_compat(self):
        self.assertEqual(self.content(self.build(header(0, ro=1 << 5, compat=77))), b"")

    def test_records(self):
        f = self.fails_header
        f("REC-01", count=1)
        f("REC-01", count=0xFFFFFFFF)
        f("REC-01", records=[copymark()], count=0)
        f("REC-01", records=[struct.pack("<HHI", 99, 0, 16)])
        f("REC-01", records=[struct.pack("<HHI", 99, 0, 0xFFFFFFFF)])
        f("REC-02", records=[struct.pack("<HHI", 99, 0, 1) + b"x\0\0\0\0\0\0\1"])
        f("REC-03", "unsupported", records=[record(99, b"")])
        f("REC-04", "unsupported", records=[record(99, b"", 2)])
        f("REC-05", records=[record(3, bytes(40))])
        f("REC-05", records=[record(4, bytes(16) + b"\1" * 16)])
        f("REC-06", records=[copymark(), copymark()])
        f("REC-06", size=0, records=[section(U(i + 1), 131072, 0, 0, kind=2, flags=0) for i in range(65)])
        f("REC-09", records=[parent(U(3), U(4), 0)])
        f("REC-10", records=[merge(U(3), NIL := bytes(16))])
        f("REC-11", records=[record(4, bytes(32), 0)])
        f("REC-11", records=[section(U(3), 131072, 0, 0, flags=0)])
        f("REC-12", records=[copymark(), merge(U(3), U(4))])
        f("SID-01", records=[host(0)])
        ok = self.build(header(0, [record(99, b"abc", 0)]), length=MiB)
        self.assertEqual(self.content(ok), b"")

    def test_parent_record(self):
        sec = section(U(3), 131072, 0, 0)
        f = lambda rule, rec, result="invalid": self.fails_header(rule, result, records=[sec, rec])
        f("REC-07", parent(U(3), U(4), 0, fmt=6), "unsupported")
        f("REC-07", parent(U(3), U(4), 0, flags=3), "unsupported")
        f("REC-07", parent(U(3), U(4), 0, flags=0))
        f("REC-07", parent(U(3), bytes(16), 0))
        f("REC-08", parent(U(3), U(4), 0, hint=b"a\0b"))
        f("REC-08", parent(U(3), U(4), 0, hint=b"\xff"))
        f("REC-08", parent(U(3), U(4), 0, hint=b"\xed\xa0\x80"))
        f("REC-08", parent(U(3), U(4), 0, hint=b"a" * 4097))
        f("CHN-05", parent(U(3), U(4), 1))
        f("CHN-01", parent(U(3), U(4), 0, hint=b"a" * 4096), "refused")
        bad = bytearray(parent(U(3), U(4), 0, hint=b"abcdefgh"))
        bad[8 + 48] = 7
        f("REC-05", bytes(bad))

    def test_sections(self):
        f = lambda rule, *s, result="invalid", **kw: self.fails_header(rule, result, records=s, **kw)
        f("SEC-01", section(U(3), 131072, 0, 0, kind=9), result="unsupported")
        f("SEC-02", section(U(3), 131072, 4096, 0, shift=11))
        f("SEC-02", section(U(3), 131072, 4096, 0, shift=255, kind=2))
        f("SEC-03", section(U(3), 131072 + 512, 4096, 0))
        f("SEC-03", section(U(3), 131072, 4097, 0))
        f("SEC-03", section(U(3), 65536, 4096, 0))
        f("SEC-03", section(U(3), (1 << 64) - 4096, 8192, 0, kind=9, flags=0))
        f("SEC-04", section(U(3), 131072, 0, 4096), size=4096, data=135168)
        f("SEC-04", section(U(3), 131072, 4096, (1 << 64) - 1, kind=2))
        f("SEC-05", section(U(3), 131072, 4096, 0, kind=9, flags=0), size=1)
        f("SEC-05", section(U(3), 131072, 4096, 0), section(U(4), 131072, 4096, 0, kind=2))
        f("SEC-06", section(bytes(16), 131072, 4096, 0))
        f("SEC-06", section(U(3), 131072, 4096, 0), section(U(3), 135168, 4096, 0, kind=9, flags=0))
        f("SEC-07", section(U(3), 131072, 4096, 0), section(U(4), 135168, 4096, 0))
        f("SEC-07", section(U(3), 131072, 4096, 1))
        f("SEC-08", section(U(3), MiB - 4096, 8192, 0))
        f("REC-05", section(U(3), 131072, 4096, 0, res=b"\0\0\0\0\1"))
        f("REC-05", section(U(3), 131072, 4096, 0, res2=1))
        ok = self.build(header(0, [section(U(3), 131072, 4096, 0, kind=9, flags=0, shift=200),
                                   section(U(4), 1 << 60, 4096, 5, kind=3)]), length=MiB)
        self.assertEqual(self.content(ok), b"")


class Chains(Case):
    def expected(self, size, blocks, data, below, visible, shift=12):
        g = 1 << shift
        out = bytearray()
        for at in range(size):
            if at // g in blocks:
                out.append(data[at])
            else:
                out.append(below[at] if at < visible else 0)
        return bytes(out)

    def test_overlay_no_parent(self):
        data = random.randbytes(20000)
        got = self.content(self.overlay(20000, {1, 4}, data))
        self.assertEqual(got, self.expected(20000, {1, 4}, data, b"", 0))

    def test_chains(self):
        rnd = random.Random(1)
        for _ in range(30):
            size0, size1, size2 = (rnd.randrange(0, 80000) for _ in range(3))
            raw = rnd.randbytes(size0)
            vis1 = rnd.randint(0, min(size0, size1))
            vis2 = rnd.randint(0, min(size1, size2))
            sh1, sh2 = rnd.randint(12, 14), rnd.randint(12, 15)
            b1 = {n for n in range(-(-size1 >> sh1) if size1 else 0) if rnd.random() < .4}
            b2 = {n for n in range(-(-size2 >> sh2) if size2 else 0) if rnd.random() < .4}
            b1x, b2x = b1 | {n + (-(-size1 // (1 << sh1))) for n in range(3)}, b2
            d1, d2 = rnd.randbytes(size1), rnd.randbytes(size2)
            p0 = self.raw(raw)
            p1 = self.overlay(size1, b1x, d1, parent(bytes(16), bytes(16), vis1, fmt=2, flags=0), sh1, uuid=U(21),
                              epoch=U(22))
            p2 = self.overlay(size2, b2, d2, parent(U(21), U(22), vis2), sh2, uuid=U(31))
            c1 = self.expected(size1, b1, d1, raw, vis1, sh1)
            c2 = self.expected(size2, b2, d2, c1, vis2, sh2)
            self.assertEqual(self.content(p1, p0), c1)
            self.assertEqual(self.content(p2, p1, p0), c2)

    def test_many_sectors(self):
        size = 3968 * 4096 * 10 + 5000
        sid = U(9)
        blocks = {3967, 3968, 3968 * 8, 3968 * 10, 3968 * 10 + 1, 3968 * 10 + 2} | set(range(3968 * 3, 3968 * 5))
        bits = bytearray(sectors(sid, blocks, 16))
        bits[512 * 9 + 3] ^= 1                          # sector 9 was empty, is bad now
        bits[512 * 12:512 * 16] = random.randbytes(2048)        # past the needed ones
        path = self.build(header(size, [section(sid, 131072, 8192, size)], data=196608),
                          parts=[(131072, bytes(bits))], length=196608 + size)
        with reader.Disk(path) as disk:
            got = [(e.start // 4096, e.end // 4096, e.kind) for e in disk.extents()]
        self.assertEqual(got, [(0, 3967, "zero"), (3967, 3969, "data"), (3969, 3968 * 3, "zero"),
                               (3968 * 3, 3968 * 5, "data"), (3968 * 5, 3968 * 8, "zero"),
                               (3968 * 8, 3968 * 8 + 1, "data"), (3968 * 8 + 1, 3968 * 9, "zero"),
                               (3968 * 9, 3968 * 10, "unreadable"), (3968 * 10, 3968 * 10 + 1, "data")])
        answer = self.check(path)
        self.assertEqual((answer["result"], answer["rules"]), ("damaged", ["PAG-01"]))
        self.assertEqual([(bad["offset"], bad["end"] - bad["first"]) for bad in answer["unreadable"]], [(131072 + 512 * 9, 1)])
        out = self.path()
        code, answer = self.cli("read", path, "-o", out)
        self.assertEqual((code, answer["result"]), (1, "damaged"))
        self.assertEqual(answer["unreadable"], [{"start": 3968 * 9 * 4096, "end": 3968 * 10 * 4096, "rule": "PAG-01"}])

    def test_bad_sectors(self):
        sid = U(9)
        good = bytearray(sectors(sid, {0}))
        def content(sec):
            return self.content(self.build(header(4096, [section(sid, 131072, 4096, 4096)], data=135168),
                                           parts=[(131072, sec), (135168, b"d" * 4096)]))
        self.assertEqual(content(good), b"d" * 4096)
        for at in (0, 496, 504, 508):
            bad = bytearray(good)
            bad[at] ^= 128
            self.assertEqual(content(bad), b"?" * 4096)
        self.assertEqual(content(sectors(U(8), {0})), b"?" * 4096)
        self.assertEqual(content(sectors(sid, {3968})[512:]), b"?" * 4096)

    def test_matching(self):
        data = bytes(4096)
        base = self.complete(data, uuid=U(21), epoch=U(22))
        child = lambda *l, **kw: self.overlay(4096, set(), data, parent(*l, **kw), uuid=U(31))
        self.assertEqual(self.content(child(U(21), U(22), 4096), base), data)
        self.fails("CHN-01", child(U(21), U(22), 4096), result="refused")
        self.fails("CHN-03", child(U(20), U(22), 4096), base)
        self.fails("CHN-03", child(U(21), U(23), 4096), base)
        self.assertEqual(self.content(child(U(21), U(23), 4096), base, override={"CHN-03"}), data)
        small = self.complete(bytes(100), uuid=U(21), epoch=U(22))
        self.fails("CHN-05", child(U(21), U(22), 4096), small)
        self.fails("CHN-05", child(bytes(16), bytes(16), 4096, fmt=2, flags=0), self.raw(b"abc"))
        self.fails("REC-07", child(U(21), U(22), 4096, fmt=3), base, result="unsupported")
        self.fails("CHN-03", child(bytes(16), bytes(16), 4096, flags=0), base)
        self.fails("CHN-08", child(U(21), U(22), 4096), "/dev/null", result="refused")
        self.fails("CHN-08", child(U(21), U(22), 4096), "/tmp", result="refused")
        self.fails("HDR-02", child(U(21), U(22), 4096), self.raw(b"abc" * 100000))
        lvd_as_raw = self.content(child(bytes(16), bytes(16), 4096, fmt=2, flags=0), base)
        self.assertEqual(lvd_as_raw[:8], reader.MAGIC)
        self.fails("CHN-03", child(U(21), U(22), 0, fmt=2), base)
        loop = child(U(31), U(2), 0)
        self.fails("CHN-02", loop, loop)
        os.link(loop, loop + "x")
        self.fails("CHN-02", loop, loop + "x")

    def test_depth(self):
        link = parent(U(1), U(2), 0)
        paths = [self.overlay(0, set(), b"", link) for _ in range(63)]
        base = self.complete(b"", uuid=U(1), epoch=U(2))
        self.assertEqual(self.content(*paths, base), b"")
        self.fails("CHN-02", self.overlay(0, set(), b"", link), *paths, base)

    def test_marks(self):
        data = random.randbytes(4096)
        mark = [merge(U(31), U(22))]
        base = self.overlay(4096, {0}, data, uuid=U(21), epoch=U(23), extra=mark)
        self.fails("CHN-04", base, result="refused")
        top = self.overlay(4096, set(), data, parent(U(21), U(22), 4096), uuid=U(31))
        self.assertEqual(self.content(top, base), data)
        top = self.overlay(4096, set(), data, parent(U(21), U(23), 4096), uuid=U(31))
        self.assertEqual(self.content(top, base), data)
        self.fails("CHN-04", self.overlay(4096, set(), data, parent(U(21), U(22), 4096), uuid=U(32)), base)
        self.fails("CHN-04", self.overlay(4096, set(), data, parent(U(21), U(24), 4096), uuid=U(31)), base)
        middle = self.overlay(4096, set(), data, parent(U(21), U(22), 4096), uuid=U(41), epoch=U(42))
        top = self.overlay(4096, set(), data, parent(U(41), U(42), 4096), uuid=U(31))
        self.assertEqual(self.content(top, middle, base), data)
        self.fails("CHN-04", middle, base)
        copy = self.complete(data, records=[copymark()], uuid=U(21), epoch=U(22))
        self.fails("CHN-06", copy, result="refused")
        self.assertEqual(self.content(copy, override={"CHN-06"}), data)
        self.fails("CHN-06", self.overlay(4096, set(), data, parent(U(21), U(22), 4096)), copy)

    def test_sidecar(self):
        vol = random.randbytes(10000)
        sid = U(9)
        base = self.raw(b"b" * 10000)
        def sidecar(size, length, fmt=2, sec=True):
            recs = [section(sid, 131072, 4096, size), parent(bytes(16), bytes(16), size, 2, 0)] if sec else []
            return self.build(header(size, recs + [host(length, fmt)], kind=2, data=0),
                              parts=[(131072, sectors(sid, {1}) if sec else b"")], length=135168)
        volume = self.raw(vol)
        self.assertEqual(self.content(sidecar(9999, 10000), base, volume=volume),
                         b"b" * 4096 + vol[4096:8192] + b"b" * (9999 - 8192))
        self.assertEqual(self.content(sidecar(9999, 10000, sec=False), volume=volume), vol[:9999])
        self.fails("SID-07", sidecar(9999, 10000), base, result="refused")
        self.fails("SID-02", sidecar(9999, 10001), base, volume=volume)
        self.fails("SID-04", sidecar(9999, 9998), base, volume=volume)
        self.fails("SID-03", sidecar(9999, 9999, 3), base, volume=volume, result="unsupported")
        self.fails("SEC-09", sidecar(9999, 9999, 1), base, volume=volume)
        self.fails("SID-05", sidecar(9999, 9999, 1, sec=False), volume=volume, result="refused")
        self.fails("CHN-02", sidecar(9999, 10000), volume, volume=volume)
        self.fails("SID-05", self.complete(b"x"), volume=volume)

    def bitmaps(self, path, **kw):
        with reader.Disk(path, **kw) as disk:
            return {told.name: (told.state, told.trust, told.dirty) for told in disk.bitmaps()}, disk.no_bitmaps()

    def test_bitmaps(self):
        dirty = lambda n, **kw: section(U(n), 131072 + 4096 * n, 4096, kw.pop("covered", 20000), kind=2, flags=0, **kw)
        bits = lambda n, marks: (131072 + 4096 * n, sectors(U(n), marks))
        def told(*records, state=0, parts=(), size=20000, length=1 << 19, **kw):
            kw = {"data": 1 << 18, "state": state, "records": records, **kw}
            return self.bitmaps(self.build(header(size, **kw), parts=parts, length=length))
        parts = [bits(3, {0, 4}), bits(4, {2})]
        one = lambda trust, dirty, state="recording": ({"a": (state, trust, dirty)}, [])
        ends, rest = [(0, 4096), (16384, 20000)], [(0, 20000)]
        self.assertEqual(told(dirty(3), bitmap(b"a", U(3)), parts=parts), one("valid", ends))
        self.assertEqual(told(dirty(3), bitmap(b"a", U(3), epoch=U(7)), parts=parts), one("stale", rest))
        self.assertEqual(told(dirty(3), bitmap(b"a", U(3), 0), parts=parts), one("valid", ends, "disabled"))
        self.assertEqual(told(dirty(3), bitmap(b"a", U(3), 0, epoch=U(7)), parts=parts),
                         one("missed_writes", ends, "disabled"))
        self.assertEqual(told(dirty(3), bitmap(b"a", U(3), 2), parts=parts), one("stale", rest, "frozen"))
        both = [dirty(3), dirty(4), bitmap(b"a", U(3), 2), bitmap(b"a", U(4))]
        self.assertEqual(told(*both, parts=parts), one("valid", [(0, 4096), (8192, 12288), (16384, 20000)], "frozen"))
        self.assertEqual(told(dirty(3, covered=9000), bitmap(b"a", U(3)), parts=[bits(3, {1})]),
                         one("valid", [(4096, 20000)]))
        self.assertEqual(told(dirty(3), bitmap(b"a", U(3)), state=2), one("valid", rest))
        self.assertEqual(told(dirty(3), bitmap(b"a", U(3)), state=1), one("valid", []))
        intent = section(U(5), 131072 + 4096 * 5, 4096, 20000, kind=3, flags=0, shift=13)
        unclean = [dirty(3), intent, bitmap(b"a", U(3))]
        self.assertEqual(told(*unclean, state=2, parts=[bits(3, {0}), bits(5, {1})]),
                         one("valid", [(0, 4096), (8192, 16384)]))
        self.assertEqual(told(*unclean, state=2, parts=[(131072 + 4096 * 5, b"x")]), one("valid", rest))
        self.assertEqual(told(*unclean, parts=[(131072 + 4096 * 5, b"x")]), one("valid", []))
        for rule, flaw in (("BMP-02", bitmap(b"b", U(3), 3)), ("BMP-02", bitmap(b"b", U(3), res=b"\1" * 12)),
                           ("BMP-02", bitmap(b"b", U(3), since=bytes(16))), ("BMP-02", record(6, b"", 0)),
                           ("BMP-03", bitmap(b"", U(3))), ("BMP-03", bitmap(b"b\0", U(3))),
                           ("BMP-03", bitmap(b"\xff", U(3))), ("BMP-03", bitmap(b"a", U(3))),
                           ("BMP-04", bitmap(b"b", U(4))), ("BMP-04", bitmap(b"b", U(9)))):
            found, none = told(dirty(3), dirty(4), bitmap(b"a", U(4)), flaw, parts=parts)
            self.assertEqual((list(found), [broken for _, broken in none]), (["a"], [rule]))
        self.fails_header("REC-03", "unsupported", records=[bitmap(b"a", U(3), flags=1)])

    def test_beside(self):
        record = [section(U(3), 131072, 4096, 8192, kind=2, flags=0)]
        def sidecar(host, **kw):
            return self.build(header(8192, record + [host, bitmap(b"a", U(3))], kind=2, data=0, **kw),
                              parts=[(131072, sectors(U(3), {1}))], length=135168)
        trust = lambda *args, **kw: [trust for _, trust, _ in self.bitmaps(*args, **kw)[0].values()]
        volume = self.raw(bytes(8192))
        status = os.stat(volume)
        right, wrong = struct.pack("<QQ", status.st_mtime_ns, status.st_ino), U(255)
        self.assertEqual(trust(sidecar(host(8192)), volume=volume), ["valid"])
        self.assertEqual(trust(sidecar(host(8192, former=right)), volume=volume), ["valid"])
        self.assertEqual(trust(sidecar(host(8192, former=wrong)), volume=volume), ["stale"])
        self.assertEqual(trust(sidecar(host(8192, former=wrong), state=2), volume=volume), ["valid"])
        image = lambda epoch: self.complete(bytes(8192), epoch=epoch)
        beside = lambda *args, **kw: sidecar(host(8192, 1, *args), **kw)
        self.assertEqual(trust(image(U(2)), beside=beside()), ["valid"])
        self.assertEqual(trust(image(U(7)), beside=beside(U(7))), ["valid"])
        self.assertEqual(trust(image(U(7)), beside=beside(U(8))), ["stale"])
        self.fails("EPO-04", image(U(2)), result="refused", beside=beside(uuid=U(99)))
        self.fails("SID-05", image(U(2)), result="refused", beside=sidecar(host(8192)))
        self.fails("SID-05", image(U(2)), result="refused", beside=image(U(2)))
        code, answer = self.cli("dirty", image(U(2)), "--beside", beside())
        self.assertEqual((code, answer["bitmaps"][0]["dirty"]), (0, [[4096, 8192]]))

    def test_locks(self):
        path = self.complete(b"hello")
        for byte, kind, rule in ((101, fcntl.F_RDLCK, 1), (200, fcntl.F_RDLCK, 1), (100, fcntl.F_RDLCK, 0), (102, fcntl.F_RDLCK, 0),
                                 (201, fcntl.F_RDLCK, 0), (100, fcntl.F_WRLCK, 1)):
            with open(path, "r+b") as f:
                fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, byte, 1, 0))
                if rule:
                    self.fails("CHN-11", path, result="locked")
                else:
                    self.assertEqual(self.content(path), b"hello")
        self.assertEqual(self.content(path), b"hello")

    def test_huge(self):
        size = 1 << 40
        length = -(-(-(-(size >> 12) // 3968)) // 8) * 4096
        offset = 196608 + size
        path = self.build(header(size, [section(U(9), offset, length, size)], data=196608), length=offset + length,
                          parts=[(offset + 512 * 5000, sectors(U(9), {5000 * 3968 + 7}, 5001)[-512:])])
        with reader.Disk(path) as disk:
            got = [tuple(e[:3]) for e in disk.extents()]
        at = (5000 * 3968 + 7) * 4096
        self.assertEqual(got, [(0, at, "zero"), (at, at + 4096, "data"), (at + 4096, size, "zero")])
        self.assertEqual(self.check(path)["rules"], [])


if __name__ == "__main__":
    unittest.main()
