#!/usr/bin/env python3
"""Holds an implementation of the LVD format against the conformance vectors, by way of an adapter.

    run.py --adapter "target/release/lvd adapter"
    run.py --adapter "python3 testdata/reader/adapter.py" --only hdr,slots
    run.py --argv "./my-reader"

ADAPTER.md says what an adapter is asked and answers; README.md says what a vector states. This file says what follows
from both: when a case passes. It needs a POSIX host, and knows nothing of the format but the names of its fields.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from xml.etree import ElementTree

from restore import lines_of

HERE = pathlib.Path(__file__).resolve().parent
PAGE = 4096
WHOLE = 1 << 20                             # stretches up to this length are read as a whole, of others the ends
LONGEST_ANSWER = 64 << 20
OPENS = ("valid", "damaged")                # results of an open that succeeds
HEADER = ("kind", "state", "sequence", "uuid", "epoch", "virtual_size", "data_offset", "complete", "granule", "parent",
          "merge_mark", "copy_mark")
JOBS = ("stream", "merge", "copy", "rebase", "run", "finish", "pivot")


class Failure(Exception):
    """Why a case fails, in one line."""


class Missing(Exception):
    """Why a case is skipped: features that no adapter has, or `host` if this host cannot make the files."""


def one_line(thing, most=300):
    """What an adapter says goes to terminals and into XML."""
    text = thing if isinstance(thing, str) else json.dumps(thing)
    text = "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= most else text[:most - 4] + " ..."


def same(what, found, expected):
    if found != expected:
        raise Failure(f"{what}: {one_line(found)} instead of {one_line(expected)}")


def fields(answer, **kinds):
    """Returns the fields of those names and types: an adapter may answer with anything."""
    if not isinstance(answer, dict):
        raise Failure(f"{one_line(answer)} is no object")
    for name, kind in kinds.items():
        if type(answer.get(name)) is not kind:
            raise Failure(f"{name} is no {kind.__name__} in {one_line(answer)}")
    return [answer[name] for name in kinds]


@contextlib.contextmanager
def during(what):
    try:
        yield
    except Failure as failure:
        raise Failure(f"{what}: {failure}") from None


# Files


class Sparse:
    """Bytes of which most are zero: their number, and the pages that have others."""

    def __init__(self, length, pieces=()):
        self.length, self.pages = length, {}
        for offset, data in pieces:
            while data:
                number, place = divmod(offset, PAGE)
                part, data = data[:PAGE - place], data[PAGE - place:]
                if part.count(0) < len(part):
                    self.pages.setdefault(number, bytearray(PAGE))[place:place + len(part)] = part
                offset += len(part)

    def __eq__(self, other):
        return isinstance(other, Sparse) and (self.length, self.pages) == (other.length, other.pages)

    @classmethod
    def of_dump(cls, stated, folder):
        """The content of a file or a disk, as a vector states it."""
        length = stated["length"] if "length" in stated else stated["size"]
        return cls(length, lines_of(folder / stated["dump"]) if "dump" in stated else ())

    @classmethod
    def of_file(cls, path):
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0) as file:
            return cls(file.seek(0, os.SEEK_END), cls._data(file))

    @staticmethod
    def _data(file):
        """Yields what is no hole. Files of 2^60 bytes are mostly holes."""
        offset = 0
        with contextlib.suppress(OSError):  # ENXIO: there is nothing but a hole
            while True:
                offset = file.seek(offset, os.SEEK_DATA)
                end = file.seek(offset, os.SEEK_HOLE)
                file.seek(offset)
                while offset < end:
                    data = file.read(min(end - offset, WHOLE))
                    yield offset, data
                    offset = offset + len(data) if data else end

    def read(self, start, end):
        data = bytearray(end - start)
        for number in range(start // PAGE, -(-end // PAGE)):
            if number in self.pages:
                first, last = max(start, number * PAGE), min(end, number * PAGE + PAGE)
                data[first - start:last - start] = self.pages[number][first % PAGE:][:last - first]
        return bytes(data)

    def write(self, path):
        with open(path, "wb") as file:
            file.truncate(self.length)
            for number, page in self.pages.items():
                file.seek(number * PAGE)
                file.write(page[:self.length - number * PAGE])


def contents(folder):
    """Returns the files of a folder by name. What is no regular file, or cannot be read, has no content."""
    def content(entry):
        try:
            return Sparse.of_file(entry.path) if entry.is_file(follow_symlinks=False) else None
        except OSError:
            return None
    with os.scandir(folder) as entries:
        return {entry.name: content(entry) for entry in entries}


def unchanged(before, folder):
    after = contents(folder)
    changed = [one_line(name) for name in sorted(before.keys() | after.keys())
               if name not in before or before[name] != after.get(name)]
    if changed:
        raise Failure(f"writes, and must not: {', '.join(changed)}")


# Adapters


class Process:
    """An adapter at work in a folder. It has a time, a memory, and a process group that ends with it."""

    # Limits of the shell bind the adapter from its first instruction. The file that it may write is bounded too, so that
    # one that writes without end does not fill the host.
    LIMITS = 'ulimit -c 0; ulimit -f "$1"; [ "$2" = 0 ] || ulimit -v "$2"; shift 2; exec "$@"'

    def __init__(self, command, folder, options):
        longest = max((entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder)), default=0)
        limits = [str((longest + (1 << 30)) // 512), str(options.memory * 1024)]
        self.seconds, self.deadline = options.seconds, time.monotonic() + options.seconds
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", self.LIMITS, "sh", *limits, *command], cwd=folder, bufsize=0, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.output, self.errors, self.selector = bytearray(), b"", selectors.DefaultSelector()
        for stream in (self.process.stdout, self.process.stderr):
            self.selector.register(stream, selectors.EVENT_READ)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Kills it, and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.selector.close()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()

    def ask(self, do, **request):
        """Returns the answer to one request, an object."""
        with during(do):
            if self.output:
                raise Failure(f"{self._shown()} is said before anything is asked")
            with contextlib.suppress(OSError):          # it has ended; that shows when the answer is awaited
                self.process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            line = self._line()
            try:
                answer = json.loads(line, parse_int=self._number)
            except (ValueError, RecursionError):
                raise Failure(f"answers with what is no JSON: {one_line(line[:100].decode(errors='replace'))}") from None
            fields(answer)
            return answer

    def do(self, do, **request):
        """As `ask`, of what must not fail."""
        answer = self.ask(do, **request)
        if "error" in answer:
            raise Failure(f"{do}: fails: {blamed(answer)}")
        return answer

    @staticmethod
    def _number(digits):
        if len(digits) > 40:
            raise ValueError                            # no number of the format; and slow to parse, if it is long
        return int(digits)

    def _line(self):
        searched = 0
        while (end := self.output.find(b"\n", searched)) < 0:
            searched = len(self.output)
            if not self._more():
                raise Failure(f"no answer: {self.how_it_ended()}")
        line = bytes(self.output[:end])
        del self.output[:end + 1]
        return line

    def _more(self):
        """Waits for output. Returns whether there can be more of it."""
        if len(self.output) > LONGEST_ANSWER:
            raise Failure(f"an answer of more than {LONGEST_ANSWER >> 20} MiB")
        ready = self.selector.select(self.deadline - time.monotonic())
        if not ready or time.monotonic() > self.deadline:
            raise Failure(f"takes longer than {self.seconds} seconds{self._last_words()}")
        for key, _ in ready:
            data = os.read(key.fd, 1 << 16)
            if not data:
                self.selector.unregister(key.fileobj)
            if key.fileobj is self.process.stdout:
                self.output += data
            else:
                self.errors = (self.errors + data)[-4096:]
        return self.process.stdout in [key.fileobj for key in self.selector.get_map().values()]

    def end(self):
        """Ends its standard input, and waits until it has ended too. Returns the exit code, and what else it said."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        while self.selector.get_map():
            self._more()
        try:
            return self.process.wait(max(self.deadline - time.monotonic(), 0)), bytes(self.output)
        except subprocess.TimeoutExpired:
            raise Failure(f"takes longer than {self.seconds} seconds to end") from None

    def end_cleanly(self):
        code, _ = self.end()
        if code:
            raise Failure(self.how_it_ended())
        if self.output:
            raise Failure(f"{self._shown()} is said, and was not asked")

    def how_it_ended(self):
        try:
            code = self.process.wait(min(max(self.deadline - time.monotonic(), 0), 1))
        except subprocess.TimeoutExpired:
            return "it has closed its standard output"
        with contextlib.suppress(Failure):              # what it said last may still be in the pipe
            while self.selector.get_map():
                self._more()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return f"it has ended with {how}{self._last_words()}"

    def _last_words(self):
        words = self.errors.decode(errors="replace").strip()
        return f": {one_line(words[-280:])}" if words else ""

    def _shown(self):
        return one_line(self.output[:100].decode(errors="replace"))


class Adapter:
    """A command that answers to the protocol, and what it says of itself."""

    def __init__(self, command, options):
        self.command, self.options = command, options
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder, self.begin(folder) as process:
            self.implementation, self.features = process.hello
            process.end_cleanly()

    @contextlib.contextmanager
    def begin(self, folder):
        with Process(self.command, folder, self.options) as process:
            process.hello = fields(process.do("hello", protocol=1), implementation=str, features=list)
            yield process

    def must_have(self, needs):
        lacking = [feature for feature in sorted(needs) if feature not in self.features]
        if lacking:
            raise Missing(" and ".join(lacking))


def blamed(answer):
    """What an answer says of why it fails."""
    return one_line(f"{answer.get('result', '')} {answer.get('rule', '')} {answer.get('error', '')}".strip())


# Judging


class Trial:
    """One case of a vector, and how it ends."""

    OPENING = ("open", "parents", "volume", "beside", "depth", "trust_links", "ignore_marks")

    def __init__(self, vector, number, options):
        self.vector, self.number, self.options = vector, number, options
        self.case, self.folder = vector["cases"][number], vector["folder"]
        self.title = f"{vector['name']}, case {number + 1}"
        self.verdict, self.what, self.seconds, self.remarks = "passed", "", 0, set()

    def run(self):
        begun, options = time.monotonic(), self.options
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="lvd-", dir=options.scratch))
        try:
            self.judge_command(options.argv) if options.argv else self.judge()
        except Failure as failure:
            self.verdict, self.what = "failed", str(failure)
            if options.keep:
                self.keep(pathlib.Path(options.keep) / self.vector["name"] / str(self.number + 1))
        except Missing as missing:
            self.verdict, self.what = "skipped", str(missing)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        self.seconds = time.monotonic() - begun
        return self

    def rules(self):
        """What is broken comes first, then what the vector is about."""
        return list(dict.fromkeys(self.case.get("broken", []) + self.vector["rules"]))

    def remark(self, text):
        """What the specification asks for, and an implementation with fewer words for errors cannot say."""
        if self.options.strict:
            raise Failure(text)
        self.remarks.add(text)

    def restored(self, name):
        """Makes the files of the vector anew, in a folder of that name."""
        target = self.scratch / name
        target.mkdir()
        for file in self.vector["files"]:
            try:
                Sparse.of_dump(file, self.folder).write(target / file["name"])
            except OSError:                             # few file systems have files of 2^60 bytes
                raise Missing("host") from None
        return target

    def keep(self, target):
        for folder in filter(pathlib.Path.is_dir, self.scratch.iterdir()):
            (target / folder.name).mkdir(parents=True, exist_ok=True)
            for name, content in contents(folder).items():
                with contextlib.suppress(OSError):
                    content and content.write(target / folder.name / name)

    def judge(self):
        """Whatever opens is read first, also if it is to be written: that needs no writer."""
        case, judge, producer = self.case, self.options.judge, self.options.producer
        before = self.restored("before")
        if case["result"] in OPENS or not case.get("write"):
            self.judge_open(judge, case, before)
        if "then" in case:
            self.judge_then(before)
        elif case.get("write"):
            self.judge_open(producer, case, before, write=True)

    # An open

    def needs(self, case):
        is_qed = any(name.endswith(".qed") for name in case.get("parents", ()))
        needs = {"sidecars": "volume" in case, "bitmaps": "beside" in case, "qed": is_qed}
        return {feature for feature, is_needed in needs.items() if is_needed}

    def opening(self, case, write=False):
        request = {name: case[name] for name in self.OPENING if name in case}
        if write:
            request["write"] = True
            if "live" in self.vector.get("flags", ()):
                request["live"] = True
            bases = [step.get("base") for step in case.get("then", ()) if step["do"] == "merge"]
            written = [name for name in case.get("parents", ()) if name in bases]
            if written:
                request["down_to"] = written[-1]
        return request

    def judge_open(self, adapter, case, folder, write=False, bitmaps=True):
        """All that a case says of one open. Returns the header that was found."""
        adapter.must_have(self.needs(case) | ({"write"} if write else set()))
        before = contents(folder)
        with adapter.begin(folder) as process:
            if case is self.case and "check" in adapter.features and not write:
                self.judge_check(process, case)
            answer = process.ask("open", **self.opening(case, write))
            if self.judge_result(answer, case):
                self.judge_header(answer, case)
                if "disk" in case:
                    self.judge_disk(process, case["disk"], case.get("broken", ["PAG-01"]))
                if bitmaps and "bitmaps" in adapter.features:
                    self.judge_bitmaps(process, case)
            process.end_cleanly()
        unchanged(before, folder)
        if bitmaps and any(field in case for field in ("bitmaps", "no_bitmaps", "point")):
            adapter.must_have({"bitmaps"})
        return answer.get("header")

    def judge_result(self, answer, case):
        """Does the disk open, and should it? If it should not, the answer says why."""
        result, expected = answer.get("result"), case["result"]
        if expected in OPENS:
            if result not in OPENS:
                raise Failure(f"does not open, and is {expected}: {blamed(answer)}")
            if result == "damaged":
                same("result", expected, result)
            return True
        if result in OPENS:
            raise Failure(f"opens, and is {expected}: {' or '.join(case['broken'])}")
        if result is None and "error" in answer:
            self.remark("result not named")
        elif result != expected:
            raise Failure(f"result: {blamed(answer)} instead of {expected} {' or '.join(case['broken'])}")
        self.judge_rule(answer, case["broken"])
        return False

    def judge_rule(self, answer, broken):
        rule = answer.get("rule")
        if rule is None:
            self.remark("rule not named")
        elif rule not in broken:
            raise Failure(f"wrong rule: {blamed(answer)} instead of {' or '.join(broken)}")

    def judge_header(self, answer, case):
        if "header" in case:
            found, = fields(answer, header=dict)
            differing = [name for name in HEADER if found.get(name) != case["header"].get(name)]
            only = lambda header: {name: header.get(name) for name in differing}
            same("header", only(found), only(case["header"]))

    # What a guest reads

    def judge_disk(self, process, disk, broken):
        extents = joined(*fields(process.do("extents"), extents=list))
        same("size", sum(extent["length"] for extent in extents), disk["size"])
        if "extents" in disk and extents != disk["extents"]:
            pairs = itertools.zip_longest(extents, disk["extents"])
            same("extents", *next((found, stated) for found, stated in pairs if found != stated))
        content = Sparse.of_dump(disk, self.folder)
        stated = disk.get("extents", [{"offset": 0, "length": disk["size"], "held": "below"}])
        is_whole = disk["size"] <= WHOLE
        for extent in stated:
            start, end = extent["offset"], extent["offset"] + extent["length"]
            if extent["held"] == "unreadable":
                self.judge_unreadable(process, start, end, broken)
                is_whole = False
                continue
            for first, last in probes(start, end, content):
                same_bytes(self.read(process, first, last), content.read(first, last), first)
        if is_whole:                                    # across all extents at once
            data = self.read(process, 0, disk["size"])
            same_bytes(data, content.read(0, disk["size"]), 0)
            same("sha256", hashlib.sha256(data).hexdigest(), disk.get("sha256", hashlib.sha256(data).hexdigest()))

    def read(self, process, start, end):
        text, = fields(process.do("read", offset=start, length=end - start), data=str)
        if len(text) != 2 * (end - start) or not re.fullmatch("[0-9a-fA-F]*", text):
            raise Failure(f"read: {end - start} bytes at {start} are no {2 * (end - start)} hexadecimal digits")
        return bytes.fromhex(text)

    def judge_unreadable(self, process, start, end, broken):
        """Every read that touches the stretch fails, however little of it."""
        for first, last in {(start, start + 1), (end - 1, end), (start, min(end, start + WHOLE))}:
            with during(f"bytes [{first}, {last}), which cannot be read"):
                answer = process.ask("read", offset=first, length=last - first)
                if "error" not in answer:
                    raise Failure("are read")
                self.judge_rule(answer, broken)

    # What is told besides

    def judge_bitmaps(self, process, case):
        names = ("name", "sync", "state", "granularity", "since", "trust", "dirty")
        in_order = lambda items: sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
        def told(answer):
            bitmaps, none = answer.get("bitmaps", []), answer.get("no_bitmaps", [])
            fields({"bitmaps": bitmaps, "no_bitmaps": none}, bitmaps=list, no_bitmaps=list)
            for item in bitmaps + none:
                fields(item, name=str)
            return {"bitmaps": in_order({name: bitmap.get(name, False) for name in names} for bitmap in bitmaps),
                    "no_bitmaps": in_order([item["name"], item.get("broken")] for item in none),
                    "point": answer.get("point")}
        found, expected = told(process.do("bitmaps")), told(case)
        for what in expected:
            same(what, found[what], expected[what])

    def judge_check(self, process, case):
        """A check finds a rule that the open is to fail for, and nothing in a file that is right by itself."""
        with_others = "parents" in case or "beside" in case and case["result"] != "valid"
        if with_others or case["result"] not in (*OPENS, "invalid") or "SID-02" in case.get("broken", ()):
            return
        answer = process.do("check", open=case["open"])
        found, = fields(answer, rules=list)
        none = [item["broken"] for item in case.get("no_bitmaps", ()) if "beside" not in case]
        if case["result"] == "valid":
            same("check", [rule for rule in found if rule not in none], [])
        elif not any(rule in found for rule in case["broken"]):
            raise Failure(f"check: {one_line(found)} instead of {' or '.join(case['broken'])}")
        if "told" in answer:
            found = found + fields(answer, told=list)[0]
            same("check, of records that are no bitmaps", [rule for rule in none if rule in found], none)

    # What is left

    def judge_then(self, before):
        case, judge = self.case, self.options.judge
        left = self.restored("left")
        self.produce(left)
        if "after" in case:
            again = {"result": case["result"], "disk": case["after"]["disk"], **self.opening(case)}
            with during("afterwards"):
                header = self.judge_open(judge, again, left, bitmaps=False)
                self.judge_after(case["after"], header, case["header"], is_newer=True)
        for last in case.get("finally", ()):
            with during(f"finally, {last['open']} {last.get('parents', [])}"):
                if last.get("raw"):                     # its bytes are the disk: nobody is needed to read it
                    self.judge_raw(left / last["open"], last["disk"])
                    continue
                header = self.judge_open(judge, last, left)
                if "after" in last:
                    self.judge_after(last["after"], header, self.header_before(last, before))

    def produce(self, folder):
        """Does what guests and jobs do. The last process ends where it is, as one that is killed."""
        case, producer, steps = self.case, self.options.producer, iter(self.case["then"])
        needs = self.needs(case) | {"write"}
        needs |= {"jobs"} if any(step["do"] in JOBS for step in case["then"]) else set()
        needs |= {"live"} if "live" in self.vector.get("flags", ()) else set()
        producer.must_have(needs)
        is_killed = True
        while is_killed:
            is_killed = False
            with during("write"), producer.begin(folder) as process:
                answer = process.do("open", **self.opening(case, write=True))
                self.judge_result(answer, case)
                for step in steps:
                    is_killed = step["do"] == "kill"
                    if is_killed:
                        break
                    self.take(process, step, folder)

    def take(self, process, step, folder):
        request = {name: value for name, value in step.items() if name != "refused"}
        if "refused" not in step:
            process.do(**request)
            return
        before = contents(folder)
        answer = process.ask(**request)
        with during(f"{step['do']}, which must be refused"):
            if "error" not in answer:
                raise Failure("is done")
            self.judge_rule(answer, step["refused"])
            unchanged(before, folder)

    def judge_raw(self, path, disk):
        found, expected = contents(path.parent).get(path.name), Sparse.of_dump(disk, self.folder)
        if not found:
            raise Failure("there is no such file")
        same("size", found.length, expected.length)
        for number in sorted(found.pages.keys() | expected.pages.keys()):
            start, end = number * PAGE, min(number * PAGE + PAGE, expected.length)
            same_bytes(found.read(start, end), expected.read(start, end), start)

    def header_before(self, last, before):
        """The header that a file had, if it was there: stated of what the case opens, else an adapter tells."""
        case, name = self.case, last["open"]
        if name == case["open"]:
            return case["header"]
        if not (before / name).exists():
            return None
        parents, judge = case.get("parents", []), self.options.judge
        below = parents[parents.index(name) + 1:] if name in parents else last.get("parents", [])
        with judge.begin(before) as process:
            answer = process.do("open", open=name, parents=below, trust_links=True, ignore_marks=True)
            return fields(answer, header=dict)[0]

    def judge_after(self, after, header, before, is_newer=False):
        fields(header, uuid=str, epoch=str, sequence=int)
        parent = header.get("parent")
        found = {**header, "complete": header.get("complete") is True and not parent}
        if isinstance(parent, dict):
            found["visible_length"] = parent.get("visible_length")
        if before:
            same("uuid", header["uuid"], before["uuid"])
            if header["sequence"] < before["sequence"] + is_newer:
                raise Failure(f"sequence: {header['sequence']} after {before['sequence']}")
            found["new_epoch"] = header["epoch"] != before["epoch"]
        for name in sorted(after.keys() - {"disk"} | {"merge_mark"}):
            same(name, found.get(name), after.get(name))

    # Without an adapter

    def judge_command(self, command):
        case = self.case
        more = [field for field in ("volume", "beside", "write", "depth", "trust_links", "ignore_marks") if field in case]
        expected = case.get("disk", {}).get("sha256")
        if more or case["result"] == "valid" and not expected:
            raise Missing("adapter")
        folder = self.restored("before")
        before = contents(folder)
        with Process([*command, case["open"], *case.get("parents", ())], folder, self.options) as process:
            code, output = process.end()
            if code not in (0, 1) or code == 1 and case["result"] == "valid":
                raise Failure(process.how_it_ended())
        unchanged(before, folder)
        if case["result"] == "valid":
            same("sha256", output.decode(errors="replace").strip().lower(), expected)
        elif code == 0:
            raise Failure(f"is read, and is {case['result']}: {' or '.join(case['broken'])}")


def joined(extents):
    """Returns extents in order, each as long as possible."""
    found, end = [], 0
    for extent in extents:
        offset, length, held = fields(extent, offset=int, length=int, held=str)
        if offset != end or length <= 0:
            raise Failure(f"extents: {one_line(extent)} does not begin at {end}, or is empty")
        end += length
        if found and found[-1]["held"] == held:
            found[-1]["length"] += length
        else:
            found.append({"offset": offset, "length": length, "held": held})
    return found


def probes(start, end, content):
    """Returns what is read of a stretch: all of it, or the ends and what is not zero."""
    if end - start <= WHOLE:
        return [(start, end)]
    pages = [(max(start, number * PAGE), min(end, number * PAGE + PAGE)) for number in content.pages]
    return [(start, start + PAGE), (end - PAGE, end)] + [(first, last) for first, last in pages if first < last]


def same_bytes(found, expected, offset):
    if found != expected:
        at = next(at for at, pair in enumerate(zip(found, expected)) if pair[0] != pair[1])
        show = lambda data: "".join(chr(byte) if 32 < byte < 127 else "." for byte in data[at:at + 16])
        raise Failure(f"byte {offset + at}: {found[at]:#04x} instead of {expected[at]:#04x} "
                      f"({show(found)} instead of {show(expected)})")


# Vectors, rules and results


def load(only):
    """Returns the vectors, or those of the areas, names and rules `only`."""
    vectors = []
    for entry in json.loads((HERE / "manifest.json").read_text())["vectors"]:
        path = HERE / entry["path"]
        text = path.read_bytes()
        if hashlib.sha256(text).hexdigest() != entry["sha256"]:
            sys.exit(f"{path} is not the vector that manifest.json lists")
        vector = {**json.loads(text), "folder": path.parent}
        words = {vector["name"], vector["name"].split("-")[0], *vector["rules"], *broken_in(vector)}
        if not only or words & set(only):
            vectors.append(vector)
    return vectors


def broken_in(vector):
    """The rules that a vector shows broken."""
    rules = set()
    for case in vector["cases"]:
        for opened in (case, *case.get("finally", ())):
            rules.update(opened.get("broken", ()))
            rules.update(none["broken"] for none in opened.get("no_bitmaps", ()))
        for step in case.get("then", ()):
            rules.update(step.get("refused", ()))
    return rules


def specified():
    """The rules of the specification, if it lies beside the vectors, by number."""
    rules = {}
    for page in sorted((HERE.parent / "spec").glob("*.md")):
        for paragraph in page.read_text().split("\n\n"):
            if match := re.match(r"\*\*([A-Z]+-\d+)\*\* \((\w+), (\w+)\) (.*)", " ".join(paragraph.split())):
                number, role, level, text = match.groups()
                rules[number] = {"role": role, "level": level, "sentence": re.split(r"(?<=\.) ", text)[0]}
    return rules


def coverage(trials):
    """Of each rule, how many vectors keep it and break it, and how they ended. One case that fails is enough."""
    rules = {number: {**rule, **dict.fromkeys(("valid", "invalid", "passed", "failed", "skipped"), 0)}
             for number, rule in specified().items()}
    for _, group in itertools.groupby(trials, key=lambda trial: trial.vector["name"]):
        group = list(group)
        vector, verdicts = group[0].vector, [trial.verdict for trial in group]
        broken = broken_in(vector)
        for number in broken | set(vector["rules"]):
            rule = rules.setdefault(number, collections.Counter())
            rule["invalid" if number in broken else "valid"] += 1
            rule[min(verdicts, key=("failed", "skipped", "passed").index)] += 1
    return dict(sorted(rules.items()))


def junit(trials, name):
    suite = ElementTree.Element("testsuite", name=one_line(name), tests=str(len(trials)))
    for verdict, attribute in (("failed", "failures"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(trial.verdict == verdict for trial in trials)))
    for trial in trials:
        area = trial.vector["name"].split("-")[0]
        case = ElementTree.SubElement(suite, "testcase", classname=area, name=trial.title, time=f"{trial.seconds:.3f}")
        if trial.verdict != "passed":
            child = "failure" if trial.verdict == "failed" else "skipped"
            ElementTree.SubElement(case, child, message=f"{', '.join(trial.rules())}: {trial.what}")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def as_json(trials, options):
    names = {role: adapter.implementation for role, adapter in (("adapter", options.judge), ("producer", options.producer))
             if adapter}
    return {**names, "cases": [{"vector": trial.vector["name"], "case": trial.number + 1, "rules": trial.rules(),
                                "verdict": trial.verdict, "what": trial.what, "remarks": sorted(trial.remarks),
                                "seconds": round(trial.seconds, 3)} for trial in trials]}


def summary(trials):
    verdicts = collections.Counter(trial.verdict for trial in trials)
    text = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("passed", "failed", "skipped"))
    missing = collections.Counter(trial.what for trial in trials if trial.verdict == "skipped")
    if missing:
        text += f" ({', '.join(f'{count} {what}' for what, count in sorted(missing.items()))})"
    for remark, count in sorted(collections.Counter(r for trial in trials for r in trial.remarks).items()):
        text += f"; {remark}: {count}"
    return text


def musts(rules):
    """In one line, how many rules an implementation must keep have a vector that it passed."""
    by_role = collections.defaultdict(list)
    for rule in rules.values():
        if rule.get("level") == "MUST":
            by_role[rule["role"]].append(rule["passed"] > 0)
    return "MUST rules with a vector that passed: " + ", ".join(
        f"{role} {sum(passed)} of {len(passed)}" for role, passed in sorted(by_role.items()))


def words_of(command):
    """Splits a command. It is run elsewhere, so a word with a slash that names a file is made absolute."""
    return [os.path.abspath(word) if "/" in word and os.path.exists(word) else word for word in shlex.split(command)]


def parsed_options(arguments):
    parser = argparse.ArgumentParser(description="Hold an implementation of LVD against the conformance vectors.")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--adapter", metavar="COMMAND", type=words_of, help="asks COMMAND, as ADAPTER.md says")
    who.add_argument("--argv", metavar="COMMAND", type=words_of, help="runs COMMAND FILE [PARENT ...] without asking")
    parser.add_argument("--producer", metavar="COMMAND", type=words_of, help="does what guests and jobs do")
    parser.add_argument("--only", metavar="WORD,...", type=lambda text: text.split(","), help="areas, names or rules")
    parser.add_argument("--strict", action="store_true", help="an error without result and rule is a failure")
    for name, what in (("json", "every case"), ("junit", "the same for a CI server"), ("coverage", "every rule")):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"writes the results of {what}")
    parser.add_argument("--keep", metavar="DIR", help="keeps the files of what failed")
    parser.add_argument("--scratch", metavar="DIR", help="where files are made; `huge` ones need tmpfs")
    parser.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count() or 1, help="adapters at once")
    parser.add_argument("--seconds", metavar="N", type=float, default=60, help="the time of an adapter")
    parser.add_argument("--memory", metavar="MIB", type=int, default=1024, help="its memory; 0: no limit")
    options = parser.parse_args(arguments)
    if not options.scratch and os.access("/dev/shm", os.W_OK):
        options.scratch = "/dev/shm"
    return options


def main(arguments=None):
    options = parsed_options(arguments)
    vectors = load(options.only)
    if not vectors:
        print(f"no vector is called, or is about, {' or '.join(options.only)}", file=sys.stderr)
        return 2
    options.judge = None
    try:
        if options.adapter:
            options.judge = Adapter(options.adapter, options)
        options.producer = Adapter(options.producer, options) if options.producer else options.judge
    except Failure as failure:
        print(f"the adapter cannot be started: {failure}", file=sys.stderr)
        return 2
    trials = [Trial(vector, number, options) for vector in vectors for number in range(len(vector["cases"]))]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for trial in pool.map(Trial.run, trials):
            if trial.verdict == "failed":
                print(f"FAIL {trial.title} ({', '.join(trial.rules())}): {trial.what}", flush=True)
    rules, name = coverage(trials), options.judge.implementation if options.judge else shlex.join(options.argv)
    for path, text in ((options.json, lambda: json.dumps(as_json(trials, options), indent=1) + "\n"),
                       (options.coverage, lambda: json.dumps(rules, indent=1) + "\n"),
                       (options.junit, lambda: junit(trials, name))):
        if path:
            pathlib.Path(path).write_text(text())
    if any("level" in rule for rule in rules.values()):
        print(musts(rules))
    print(f"{one_line(name)}: {summary(trials)}")
    return int(any(trial.verdict == "failed" for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
