#!/usr/bin/env python3
"""Tests of run.py: adapters that are wrong on purpose, each in one way, and what the runner says of them."""

import contextlib
import io
import json
import os
import pathlib
import re
import tempfile
import textwrap
import unittest
from xml.etree import ElementTree

import run

HERE = pathlib.Path(__file__).resolve().parent

RIGHT = f"python3 {HERE}/reader/adapter.py"

# Every adapter of a test is the right one, changed. `Wrong` may be changed, and is what answers.
BEGIN = f"""
import builtins, json, os, struct, sys, time
sys.path[:0] = [{str(HERE / 'reader')!r}]
import adapter, reader, writer
class Wrong(adapter.Adapter):
    pass
"""
END = "\nadapter.main(Wrong())\n"

# An adapter that also does what a guest and a job does, as far as some vectors need it: it writes where
# blocks are present, makes files anew, and cares for no crash.
PRODUCER = """
class Wrong(Wrong):
    job, writing = None, False

    def hello(self, request):
        return {"implementation": "producer", "features": ["write", "jobs"]}

    def open(self, request):
        self.name = request["open"]
        return super().open({**request, "write": False})

    def change(self, state, epoch=None):
        header = self.disk.layers[0].header
        data = bytearray(header.data)
        data[22:24], data[16:20] = struct.pack("<H", state), bytes(4)
        self.sequence = getattr(self, "sequence", header.sequence) + 1
        data[24:32], data[48:64] = struct.pack("<Q", self.sequence), epoch or os.urandom(16)
        data[16:20] = struct.pack("<I", reader.crc32c(data))
        with open(self.name, "r+b") as file:
            for slot in (0, 65536):
                file.seek(slot)
                file.write(data)

    def write(self, request):
        if not self.writing:
            self.writing = True
            self.change(2)
        with open(self.name, "r+b") as file:
            file.seek(self.disk.layers[0].data_offset + request["offset"])
            file.write((bytes.fromhex(request["pattern"]) * request["length"])[:request["length"]])
        return {}

    def close(self, request):
        self.change(0)
        return {}

    def flush(self, request):
        return {}

    run = flush

    def copy(self, request):
        if os.path.exists(request["to"]) and os.path.samefile(request["to"], "base.lvd"):
            return {"error": "a layer of the disk", "rule": "CHN-11"}
        self.to, self.raw = request["to"], request.get("raw")
        self.target([] if self.raw else [writer.CopyMark(bytes(16))], {})
        return {}

    def finish(self, request):
        data = b"".join(map(self.part, self.disk.extents()))
        self.target([], {0: data})
        return {}

    def target(self, records, data):
        if os.path.exists(self.to):
            os.unlink(self.to)
        if self.raw:
            with open(self.to, "wb") as file:
                file.write(data.get(0, b""))
            return
        writer.create(self.to, writer.new_file(writer.Header(self.disk.size, records), data))
"""


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def program(self, name, text, begin=BEGIN, end=END):
        path = self.folder / f"{name}.py"
        path.write_text(begin + textwrap.dedent(text) + end)
        return f"python3 {path}"

    def ran(self, *arguments):
        """Returns the exit code, the failures by vector, and the last line."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run.main([str(argument) for argument in arguments])
        *lines, summary = (out.getvalue() + err.getvalue()).splitlines()
        self.assertNotIn("Traceback", out.getvalue())
        failures = {}
        for line in lines:
            if match := re.match(r"FAIL ([^,]+), case (\d+) \(([^)]*)\): (.*)", line):
                failures.setdefault(match[1], f"({match[3]}) {match[4]}")
        self.assertEqual(code, 1 if failures else code)
        return code, failures, summary

    def wrong(self, text, only, *options, **program):
        """Runs an adapter that is wrong, on the vectors `only`, and returns its failures by vector."""
        command = self.program("wrong", text, **program)
        code, failures, self.summary = self.ran("--adapter", command, "--only", only, *options)
        self.assertLess(code, 2, self.summary)
        return failures


class Readers(Case):
    def test_right(self):
        results = [self.folder / name for name in ("json", "junit", "coverage")]
        options = [word for path in results for word in (f"--{path.name}", path)]
        only = "hdr-magic-noise,slots-0-newer,wrt-close,job-copy-image"
        code, failures, summary = self.ran("--adapter", RIGHT, "--strict", "--only", only, *options)
        self.assertEqual((code, failures), (0, {}))
        self.assertIn("0 failed, 2 skipped (for lack of jobs and write: 1, write: 1)", summary)
        cases = json.loads(results[0].read_text())["cases"]
        self.assertEqual({case["verdict"] for case in cases}, {"passed", "skipped"})
        suite = ElementTree.parse(results[1]).getroot()
        self.assertEqual((suite.get("tests"), suite.get("skipped")), (str(len(cases)), "2"))
        rules = json.loads(results[2].read_text())
        self.assertEqual(rules["HDR-05"]["level"], "MUST")
        self.assertGreater(rules["HDR-02"]["invalid"] * rules["HDR-02"]["passed"], 0)
        self.assertEqual((rules["ORD-90"]["valid"], rules["ORD-90"]["skipped"]), (1, 1))

    def test_ignores_checksums_of_slots(self):
        failures = self.wrong("""
            def read_slot(file, offset, right=reader.read_slot):
                slot = right(file, offset)
                if getattr(slot, "rule", "") != "HDR-05":
                    return slot
                data = file.read(offset, reader.SLOT)
                return reader.Header(data[:int.from_bytes(data[12:16], "little")], offset // reader.SLOT)
            reader.read_slot = read_slot
            """, "HDR-05,pag-marker_flipped,pag-checksum_flipped,alc-some_present")
        self.assertTrue([what for what in failures.values() if "HDR-05" in what], failures)
        self.assertEqual({name.split("-")[0] for name in failures} & {"pag", "alc"}, set())

    def test_takes_the_lower_sequence(self):
        failures = self.wrong("""
            reader.max = lambda *items, key=None: (min if key else builtins.max)(*items, key=key)
            """, "slots-0-newer,slots-1-newer,slots-equal_sequence-longer,rec-all_types")
        self.assertEqual(sorted(failures), ["slots-0-newer", "slots-1-newer"])
        self.assertIn("HDR-19", failures["slots-0-newer"])
        self.assertRegex(failures["slots-0-newer"], 'header: .*"sequence": 6.* instead of .*"sequence": 7')

    def test_ignores_the_visible_length(self):
        failures = self.wrong("""
            class Wrong(Wrong):
                def open(self, request):
                    answer = super().open(request)
                    for layer in self.disk.layers:
                        if layer.parent:
                            layer.link = layer.link._replace(visible_length=layer.parent.size)
                    return answer
            """, "chn-visible-0,chn-visible-less,chn-visible-past_parent,chn-two,alc-zeros_hide_parent")
        self.assertEqual(sorted(failures), ["chn-visible-0", "chn-visible-less"])
        self.assertRegex(failures["chn-visible-less"], r"ALC-05\) byte 6128: 0x72 instead of 0x00 \(raw")

    def test_reads_zeros_for_bad_sectors(self):
        failures = self.wrong("""
            def unseal(*sector, right=reader.unseal):
                return right(*sector) or 0
            reader.unseal = unseal
            """, "pag-bit_flipped,pag-two_bad,pag-empty,hdr-magic-noise,chn-two")
        self.assertEqual(sorted(failures), ["pag-bit_flipped", "pag-two_bad"])
        self.assertIn("PAG-01", failures["pag-bit_flipped"])

    def test_refuses_everything(self):
        failures = self.wrong("""
            class Wrong(Wrong):
                def open(self, request):
                    return {"result": "invalid", "rule": "HDR-05", "error": "no"}
            """, "HDR-05,alc-complete-size_512,chn-two")
        self.assertIn("does not open, and is valid: invalid HDR-05 no", failures["chn-two"])
        self.assertIn("alc-complete-size_512", failures)
        self.assertNotIn("slots-flaw-checksum_and_empty", failures)

    def test_accepts_everything_with_zeros(self):
        failures = self.wrong("""
            class Wrong(Wrong):
                def open(self, request):
                    try:
                        return super().open(request)
                    except reader.Refusal:
                        return {"result": "valid", "header": {}}
                def read(self, request):
                    return {"data": "00" * request["length"]}
            """, "slots-flaw-checksum_and_empty,chn-two,pag-bit_flipped,alc-complete-1_tib,alc-parent_empty")
        self.assertIn("opens, and is invalid, HDR-05", failures["slots-flaw-checksum_and_empty"])
        self.assertIn("instead of", failures["chn-two"])
        self.assertIn("PAG-01", failures["pag-bit_flipped"])
        self.assertIn("alc-complete-1_tib", failures)           # what the dump names is read

    def test_swaps_names_of_rules(self):
        failures = self.wrong("""
            class Wrong(Wrong):
                def open(self, request):
                    try:
                        return super().open(request)
                    except reader.Refusal as flaw:
                        flaw.rule = {"HDR-05": "HDR-04", "HDR-04": "HDR-05"}.get(flaw.rule, flaw.rule)
                        raise
            """, "slots-flaw-checksum_and_empty,slots-flaw-noise_and_checksum,hdr-magic-noise,rec-all_types")
        self.assertIn("wrong rule: invalid HDR-04", failures["slots-flaw-checksum_and_empty"])
        self.assertNotIn("hdr-magic-noise", failures)

    def test_names_no_rules(self):
        nameless = """
            class Wrong(Wrong):
                def open(self, request):
                    try:
                        return super().open(request)
                    except reader.Refusal as flaw:
                        return {"error": str(flaw)}
            """
        only = "slots-flaw-checksum_and_empty,chn-two"
        self.assertEqual(self.wrong(nameless, only), {})
        self.assertIn("result not named: 1; rule not named: 1", self.summary)
        self.assertEqual(list(self.wrong(nameless, only, "--strict")), ["slots-flaw-checksum_and_empty"])

    def test_tells_bitmaps_wrong(self):
        failures = self.wrong("""
            class Wrong(Wrong):
                def bitmaps(self, request):
                    answer = super().bitmaps(request)
                    for bitmap in answer["bitmaps"]:
                        bitmap["trust"] = "valid"
                    return {**answer, "bitmaps": answer["bitmaps"][::-1], "no_bitmaps": []}
            """, "bmp-plain,bmp-name-twice,bmp-stale,bmp-stale-one_of_two,bmp-sync")
        self.assertEqual(sorted(failures), ["bmp-name-twice", "bmp-stale", "bmp-stale-one_of_two"])
        self.assertIn("no bitmaps: []", failures["bmp-name-twice"])

    def test_knows_less(self):
        less = """
            class Wrong(Wrong):
                def hello(self, request):
                    return {"implementation": "less", "features": []}
            """
        self.assertEqual(self.wrong(less, "bmp-plain,epo-image,sid-plain,qed-mixed,chn-two"), {})
        self.assertIn("1 passed, 0 failed, 4 skipped", self.summary)
        self.assertIn("(for lack of bitmaps: 2, qed: 1, sidecars: 1)", self.summary)

    def test_checks_wrong(self):
        failures = self.wrong("""
            class Wrong(Wrong):
                def check(self, request):
                    is_odd = os.path.getsize(request["open"]) % 512
                    return {"rules": ["HDR-01"] if is_odd else [], "told": []}
            """, "slots-flaw-checksum_and_empty,bmp-name-twice,alc-complete-size_511,alc-complete-size_512")
        expected = ["alc-complete-size_511", "bmp-name-twice", "slots-flaw-checksum_and_empty"]
        self.assertEqual(sorted(failures), expected)


class Hostile(Case):
    """Whatever an adapter does, it fails with a line that says so."""

    def fails(self, text, pattern, *options):
        """`text` is what it does to open. It may go on with `right`."""
        body = textwrap.indent("right = super().open\n" + text, " " * 8)
        failures = self.wrong("class Wrong(Wrong):\n    def open(self, request):\n" + body,
                              "alc-complete-size_512", *options)
        self.assertRegex(failures.get("alc-complete-size_512", ""), pattern)

    def test_hangs(self):
        self.fails("time.sleep(100)", "open: takes longer than 1.5 seconds", "--seconds", 1.5)

    def test_does_not_end(self):
        self.fails("import atexit\natexit.register(time.sleep, 100)\nreturn right(request)",
                   "takes longer than 1.5 seconds", "--seconds", 1.5)

    def test_leaves_a_child(self):
        self.fails("if os.fork() == 0: time.sleep(100)\nraise SystemExit", "takes longer", "--seconds", 1.5)

    def test_says_garbage(self):
        for said in ("'hello'", "'[1]'", "'7' * 5000", "'[' * 100000", "'{\"result\": '", "'\\0\\x1b[2J'"):
            with self.subTest(said):
                said = f"print({said}, flush=True)\nreturn {{}}"
                self.fails(said, "open: (the answer is no JSON|.* no object)")

    def test_says_too_much(self):
        self.fails("while True: os.write(1, bytes(1 << 20))", "open: an answer of more than 64 MiB")

    def test_says_too_much_of_its_errors(self):
        self.fails("for _ in range(1000): os.write(2, b'?' * 100000)\nraise SystemExit(1)", r"code 1: \?+")

    def test_answers_twice(self):
        self.fails("print('{}')\nreturn right(request)", "does not open|was said before it was asked")

    def test_ends(self):
        self.fails("print('no line', end='', flush=True)\nos._exit(0)", "no answer: it has ended with code 0")
        self.fails("raise SystemError('why')", "open: no answer: it has ended with code 1: .*why")
        self.fails("os.kill(os.getpid(), 11)", "open: no answer: it has ended with signal 11")

    def test_ends_badly(self):
        self.fails("import atexit\natexit.register(os._exit, 9)\nreturn right(request)", "code 9")

    def test_closes_its_output(self):
        self.fails("os.close(1)\ntime.sleep(100)", "it has closed its standard output", "--seconds", 10)

    def test_writes(self):
        failing = (("r+b", "image.lvd", "b'x'"), ("ab", "image.lvd", "b'x'"), ("wb", "new", "b''"))
        for mode, name, data in failing:
            with self.subTest(mode):
                self.fails(f"with open({name!r}, {mode!r}) as file: file.write({data})\n"
                           "return right(request)",
                           f"does not open|writes, and must not: {name}")
        self.fails("answer = right(request)\nos.truncate('image.lvd', 1 << 29)\nreturn answer",
                   "writes, and must not: image.lvd")
        self.fails("answer = right(request)\nos.unlink('image.lvd')\nos.mkfifo('image.lvd')\nreturn answer",
                   "writes, and must not: image.lvd")

    def test_uses_too_much_memory(self):
        self.fails("self.much = bytes(2 << 30)\nreturn right(request)", "MemoryError")

    def test_writes_without_end(self):
        self.fails("with open('new', 'wb') as file:\n    file.seek(4 << 30)\n    file.write(b'x')\n"
                   "return right(request)", "File too large|signal 25")

    def test_answers_in_other_shapes(self):
        shapes = ("None", "[]", "{}", "'x'", "1e999", "-1", "[{}]", "[[1]]", "{'a': [None]}", "10 ** 30")
        for field in ("header", "extents", "data", "bitmaps", "no_bitmaps", "point", "rules", "told"):
            failures = self.wrong(f"""
                class Wrong(Wrong):
                    pass
                shapes = [{', '.join(shapes)}]
                def changed(method):
                    def answer(self, request):
                        found = method(self, request)
                        if {field!r} in found:
                            found[{field!r}] = shapes[int(request.get("depth", 0))]
                        return found
                    return answer
                for name in ("open", "extents", "read", "bitmaps", "check"):
                    setattr(Wrong, name, changed(getattr(adapter.Adapter, name)))
                """, "bmp-point")
            self.assertIn("bmp-point", failures, field)

    def test_cannot_be_started(self):
        for command in ("/nonexistent/adapter", "false", "echo hello", "cat", "yes"):
            code, _, said = self.ran("--adapter", command, "--seconds", 5)
            self.assertEqual((code, said[:8]), (2, "run.py: "), command)
        self.assertEqual(self.ran("--argv", "/nonexistent/reader")[0], 2)
        self.assertEqual(self.ran("--argv", "true", "--only", "nothing")[0], 2)

    def test_keeps_files(self):
        self.fails("os.unlink('image.lvd')\nraise SystemExit", "ended", "--keep", self.folder / "kept")
        self.assertTrue((self.folder / "kept/alc-complete-size_512/1/before").is_dir())


class Producers(Case):
    """Another adapter writes, and the right one reads what it has left."""

    GUEST = "wrt-close,wrt-flush,wrt-after_crash,wrt-merge_mark_kept,wrt-sequence_near_end"
    JOBS = "job-copy-raw,job-copy-image,job-copy-killed,job-copy-killed_again,job-copy-refused-own_layer"

    def produced(self, text, only):
        producer = self.program("producer", PRODUCER + textwrap.dedent(text))
        _, failures, self.summary = self.ran("--adapter", RIGHT, "--producer", producer, "--only", only)
        return failures

    def test_right(self):
        self.assertEqual(self.produced("", f"{self.GUEST},{self.JOBS},job-copy-guest_raw"), {})
        self.assertIn("10 passed, 0 failed, 1 skipped (for lack of live: 1)", self.summary)

    def test_keeps_the_epoch(self):
        failures = self.produced("""
            class Wrong(Wrong):
                def change(self, state):
                    super().change(state, self.disk.layers[0].header.epoch)
            """, self.GUEST)
        self.assertIn("afterwards: new_epoch: false instead of true", failures["wrt-close"])
        self.assertIn("ORD-51", failures["wrt-close"])

    def test_keeps_the_sequence(self):
        failures = self.produced("""
            class Wrong(Wrong):
                def change(self, state):
                    self.sequence = self.disk.layers[0].header.sequence - 1
                    super().change(state)
            """, "wrt-close")
        self.assertIn("afterwards: sequence: 1, and was 1 before", failures["wrt-close"])

    def test_does_not_close(self):
        failures = self.produced("Wrong.close = Wrong.flush", self.GUEST)
        self.assertIn('afterwards: state: "writing" instead of "closed"', failures["wrt-close"])
        self.assertNotIn("wrt-flush", failures)

    def test_writes_something_else(self):
        failures = self.produced("""
            class Wrong(Wrong):
                def write(self, request):
                    return super().write({**request, "length": request["length"] - 1})
            """, "wrt-close")
        self.assertRegex(failures["wrt-close"], r"afterwards: byte 4999: ")

    def test_copies_something_else(self):
        failures = self.produced("""
            class Wrong(Wrong):
                def part(self, extent):
                    return bytes(extent.end - extent.start)
            """, "job-copy-raw,job-copy-image")
        self.assertRegex(failures["job-copy-raw"], r"finally, target.raw \[\]: byte 0: ")
        self.assertRegex(failures["job-copy-image"], r"finally, target.lvd \[\]: byte 0: ")

    def test_forgets_the_mark(self):
        failures = self.produced("""
            class Wrong(Wrong):
                def target(self, records, data):
                    super().target([], data)
            """, "job-copy-killed,job-copy-image")
        self.assertIn("CHN-06", failures["job-copy-killed"])
        self.assertNotIn("job-copy-image", failures)

    def test_refuses_wrong(self):
        refusals = (("return {}", "is done"), ("return {'error': '', 'rule': 'CHN-01'}", "wrong rule"),
                    ("os.truncate('base.lvd', 1 << 20)\nreturn {'error': 'no', 'rule': 'CHN-11'}", "writes"))
        for text, what in refusals:
            body = textwrap.indent(text, " " * 8)
            failures = self.produced(f"class Wrong(Wrong):\n    def copy(self, request):\n{body}",
                                     "job-copy-refused-own_layer")
            self.assertIn(what, failures["job-copy-refused-own_layer"])

    def test_fails(self):
        failures = self.produced("""
            class Wrong(Wrong):
                def finish(self, request):
                    return {"error": "no space"}
            """, "job-copy-raw")
        self.assertIn("then: finish: fails: no space", failures["job-copy-raw"])


class Commands(Case):
    """Readers that are no adapters."""

    READER = f"""
import hashlib, sys
sys.path[:0] = [{str(HERE / 'reader')!r}]
import adapter, reader
"""
    ONLY = "alc-complete-size_512,hdr-magic-noise,pag-bit_flipped,chn-two,chn-cycle-self,sid-plain"

    def commanded(self, text):
        command = self.program("command", text, begin=self.READER, end="\n")
        _, failures, self.summary = self.ran("--argv", command, "--only", self.ONLY)
        return failures

    READS = """
one = adapter.Adapter()
try:
    one.open({"open": sys.argv[1], "parents": sys.argv[2:]})
    data = bytes.fromhex(one.read({"offset": 0, "length": one.disk.size})["data"])
except reader.Refusal:
    sys.exit(1)
"""

    def test_right(self):
        self.assertEqual(self.commanded(self.READS + "print(hashlib.sha256(data).hexdigest())"), {})
        self.assertIn("skipped (for lack of adapter: ", self.summary)

    def test_wrong(self):
        failures = self.commanded(self.READS + "print('?')")
        self.assertIn("sha256: \"?\" instead of", failures["chn-two"])
        self.assertNotIn("hdr-magic-noise", failures)
        self.assertIn("ended with code 2", self.commanded("sys.exit(2)")["hdr-magic-noise"])
        self.assertIn("is read, and is damaged: PAG-01", self.commanded("print(1)")["pag-bit_flipped"])
        self.assertIn("ended with code 1", self.commanded("sys.exit(1)")["chn-two"])


if __name__ == "__main__":
    unittest.main()
