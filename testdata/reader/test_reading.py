#!/usr/bin/env python3
"""Runs the program of spec/reading.md over the conformance vectors that it claims to open."""

import contextlib
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import types
import unittest

VECTORS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(VECTORS))
import restore      # noqa: E402

SMALL = 1 << 20                                        # extents up to this size are read in full
PAGE = VECTORS.parent / "spec" / "reading.md"
PIECE = 1 << 16


def program():
    """Return the pieces of the page, joined: what is fenced as Python."""
    return "".join(part.split("```\n")[0] for part in PAGE.read_text().split("\n```python\n")[1:])


LVD = types.ModuleType("lvd")
exec(compile(program(), PAGE, "exec"), vars(LVD))


def build(vector, folder, target):
    for file in vector["files"]:
        dump = folder / file["dump"] if "dump" in file else None
        restore.restore(target / file["name"], file["length"], dump)


@contextlib.contextmanager
def files_closed():
    """The program leaves it to its end to close files; here it is opened many times over."""
    opened = []
    LVD.os = types.SimpleNamespace(**vars(os))
    LVD.os.open = lambda *how: opened.append(os.open(*how)) or opened[-1]
    try:
        yield
    finally:
        for file in opened:
            os.close(file)


def content(disk, start, end):
    return b"".join(LVD.read(disk, start, end))


def is_claimed(vector, case):
    """The page leaves out sidecars, groups, QED and writers. What callers may override is no part of it either."""
    asks = {"volume", "beside", "group", "depth", "trust_links", "ignore_marks"} & set(case)
    is_about_writing = case.get("write") and case["result"] not in ("valid", "damaged")
    is_about_others = "qed" in vector["name"] or vector["name"].startswith("grp")
    return not asks and not is_about_writing and not is_about_others


def pieces(extent):
    """Return the stretches of an extent that are looked at: all of a small one, the ends of a large one."""
    start, end = extent["offset"], extent["offset"] + extent["length"]
    if extent["length"] <= SMALL:
        return [(at, min(at + PIECE, end)) for at in range(start, end, PIECE)]
    return [(start, start + PIECE), (end - PIECE, end)]


class Reading(unittest.TestCase):
    def check_disk(self, disk, expected, folder):
        self.assertEqual(disk.virtual_size, expected["size"])
        if "sha256" in expected:
            whole = content(disk, 0, disk.virtual_size)
            self.assertEqual(hashlib.sha256(whole).hexdigest(), expected["sha256"])
        dump = dict(restore.lines_of(folder / expected["dump"])) if "dump" in expected else {}
        for offset, data in dump.items():
            self.assertEqual(content(disk, offset, offset + len(data)), data)
        for extent in expected.get("extents", ()):
            for start, end in pieces(extent):
                if extent["held"] == "unreadable":
                    with self.assertRaisesRegex(ValueError, "PAG-01"):
                        content(disk, start, end)
                elif "sha256" not in expected:
                    lines = {at: data for at, data in dump.items() if start <= at < end}
                    found = bytearray(content(disk, start, end))
                    for at, data in lines.items():
                        found[at - start:at - start + len(data)] = bytes(len(data))
                    self.assertFalse(any(found), "the dump does not name what is not zero")

    def check_case(self, case, folder, target):
        paths = [str(target / name) for name in (case["open"], *case.get("parents", ()))]
        if case["result"] in ("valid", "damaged"):
            self.check_disk(LVD.open_layer(paths), case["disk"], folder)
        else:
            with self.assertRaises(ValueError) as refusal:
                LVD.open_layer(paths)
            self.assertIn(str(refusal.exception), case["broken"])

    def test_vectors(self):
        seen = {"valid": 0, "damaged": 0, "invalid": 0, "unsupported": 0, "refused": 0}
        for entry in json.loads((VECTORS / "manifest.json").read_text())["vectors"]:
            path = VECTORS / entry["path"]
            vector = json.loads(path.read_text())
            with tempfile.TemporaryDirectory() as scratch, self.subTest(vector["name"]):
                target = pathlib.Path(scratch)
                try:
                    build(vector, path.parent, target)
                except OSError:                         # few file systems hold files of 2^60 bytes
                    self.assertIn("huge", vector["flags"])
                    continue
                for case in vector["cases"]:
                    if is_claimed(vector, case):
                        with files_closed():
                            self.check_case(case, path.parent, target)
                        seen[case["result"]] += 1
        # A page that claims nothing would pass too.
        self.assertTrue(seen["valid"] > 200 and min(seen.values()) > 10, seen)

    def test_it_has_a_hundred_lines(self):
        lines = program().splitlines()
        self.assertLessEqual(len(lines), 100)
        self.assertLessEqual(max(map(len, lines)), 120)

    def test_it_is_a_command(self):
        vector = json.loads((VECTORS / "vectors/chn/chn-two.json").read_text())
        with tempfile.TemporaryDirectory() as scratch:
            target = pathlib.Path(scratch)
            build(vector, VECTORS / "vectors/chn", target)
            (target / "lvd.py").write_text(program())

            def run(*words):
                command = [sys.executable, "lvd.py", "image.lvd", "base.lvd", *words]
                return subprocess.run(command, cwd=target, capture_output=True)

            size = vector["cases"][0]["disk"]["size"]
            whole = run("read", "0", str(size))
            self.assertEqual(hashlib.sha256(whole.stdout).hexdigest(), vector["cases"][0]["disk"]["sha256"])
            self.assertNotEqual(run("read", str(size), "1").returncode, 0)


if __name__ == "__main__":
    unittest.main()
