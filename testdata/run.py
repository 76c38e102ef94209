#!/usr/bin/env python3
"""Holds an implementation of the LVD format against the conformance vectors.

    run.py --adapter "target/release/lvd adapter"
    run.py --adapter "python3 testdata/reader/adapter.py" --only hdr,slots
    run.py --argv "./my-reader"

ADAPTER.md says what an adapter is asked and answers, README.md what a vector states. This file says what
follows from both: when a case passes. It knows nothing of the format but the names of fields. `runner/` has
what it works with: files, processes, and reports. All of it needs Python 3.9, and a POSIX host.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import sys
import tempfile
import time

from runner import report
from runner.adapters import Adapter, Process
from runner.failures import Failure, Missing, blamed, during, fields, one_line, same, same_bytes
from runner.files import PAGE, Sparse, contents, unchanged

HERE = pathlib.Path(__file__).resolve().parent
SECTOR = 512
WHOLE = 1 << 20                         # of stretches up to this length all is read, of longer ones the ends
OPENS = ("valid", "damaged")            # results of an open that succeeds
OPENING = ("open", "parents", "volume", "beside", "group", "depth", "trust_links", "ignore_marks")
HEADER = ("kind", "state", "sequence", "uuid", "epoch", "virtual_size", "data_offset", "complete", "granule",
          "parent", "merge_mark", "copy_mark", "group_mark")
BITMAP = ("name", "sync", "state", "granularity", "since", "trust", "dirty")
JOBS = ("stream", "merge", "copy", "rebase", "run", "finish", "pivot")


class Trial:
    """One case of a vector, and how it ends. The first thing that is wrong ends it."""

    def __init__(self, vector, number, options):
        self.vector, self.number, self.options = vector, number, options
        self.case, self.folder = vector["cases"][number], vector["folder"]
        self.flags = vector.get("flags", ())
        self.title = f"{vector['name']}, case {number + 1}"
        self.verdict, self.what, self.seconds, self.remarks = "passed", "", 0, set()

    def rules(self):
        """What is broken comes first, then what the vector is about."""
        return list(dict.fromkeys(self.case.get("broken", []) + self.vector["rules"]))

    def run(self):
        begun = time.monotonic()
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="lvd-", dir=self.options.scratch))
        try:
            self.judge_command() if self.options.argv else self.judge_case()
        except (Failure, RecursionError) as failure:    # RecursionError: an answer of a thousand levels
            self.verdict, self.what = "failed", str(failure)
            if self.options.keep:
                self.keep(pathlib.Path(self.options.keep) / self.vector["name"] / str(self.number + 1))
        except Missing as missing:
            self.verdict, self.what = "skipped", str(missing)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        self.seconds = time.monotonic() - begun
        return self

    def restored(self, name):
        """Makes the files of the vector, in a folder of that name."""
        target = self.scratch / name
        target.mkdir()
        for file in self.vector["files"]:
            try:
                Sparse.stated(file, self.folder).write(target / file["name"])
            except OSError:                             # few file systems have files of 2^60 bytes
                raise Missing("host") from None
        return target

    def keep(self, target):
        for folder in self.scratch.iterdir():
            (target / folder.name).mkdir(parents=True, exist_ok=True)
            for name, content in contents(folder).items():
                with contextlib.suppress(OSError):
                    content and content.write(target / folder.name / name)

    def remark(self, text):
        """The specification asks for this, but who has fewer words for errors may conform without."""
        if self.options.strict:
            raise Failure(text)
        self.remarks.add(text)

    def judge_case(self):
        """What opens is first read, also if it is to be written: that needs no writer."""
        case, judge = self.case, self.options.judge
        before = self.restored("before")
        if case["result"] in OPENS or not case.get("write"):
            self.judge_open(judge, case, before)
        if "then" in case:
            self.judge_then(before)
        elif case.get("write"):
            self.judge_open(self.options.producer, case, before, write=True)

    # An open

    def needs(self, case):
        is_qed = any(name.endswith(".qed") for name in case.get("parents", ()))
        needs = {"sidecars": "volume" in case, "bitmaps": "beside" in case, "groups": "group" in case, "qed": is_qed}
        return {feature for feature, is_needed in needs.items() if is_needed}

    def opening(self, case, write=False):
        """The fields of an open: those of the case, and for a writer what it cannot guess."""
        request = {name: case[name] for name in OPENING if name in case}
        bases = [step["base"] for step in case.get("then", ()) if step["do"] == "merge"]
        written = [name for name in case.get("parents", ()) if name in bases]
        if write:
            more = {"write": True, "live": "live" in self.flags, "down_to": written[-1] if written else None}
            request.update((name, value) for name, value in more.items() if value)
        return request

    def judge_open(self, adapter, case, folder, write=False, bitmaps=True):
        """Judges all that a case says of one open. Returns the header that was found."""
        adapter.must_have(self.needs(case) | ({"write"} if write else set()))
        before = contents(folder)
        with adapter.begin(folder) as process:
            if case is self.case and "check" in adapter.features and not write:
                self.judge_check(process, case)
            answer = process.ask("open", **self.opening(case, write))
            if self.judge_result(answer, case):
                self.judge_header(answer, case)
                if "disk" in case:
                    self.judge_disk(process, case["disk"], case.get("broken", ["PAG-01"]), case.get("perhaps", ()))
                if bitmaps and "bitmaps" in adapter.features:
                    self.judge_bitmaps(process, case)
            process.end_cleanly()
        unchanged(before, folder)
        if bitmaps and any(field in case for field in ("bitmaps", "no_bitmaps", "point")):
            adapter.must_have({"bitmaps"})
        return answer.get("header")

    def judge_result(self, answer, case):
        """Does it open, and should it? If it does not, the answer says why."""
        result, expected = answer.get("result"), case["result"]
        if expected in OPENS:
            if result not in (expected, "valid"):       # that a part cannot be read, the open need not know
                raise Failure(f"does not open, and is {expected}: {blamed(answer)}")
            return True
        stated = f"{expected}, {' or '.join(case['broken'])}"
        if result in OPENS:
            raise Failure(f"opens, and is {stated}")
        if result is None and "error" in answer:
            self.remark("result not named")
        elif result != expected:
            raise Failure(f"result: {blamed(answer)} instead of {stated}")
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
            # What is absent is false, or nothing.
            wrong = [name for name in HEADER if (found.get(name) or None) != (case["header"].get(name) or None)]
            same("header", *({name: told.get(name) for name in wrong} for told in (found, case["header"])))

    # What a guest reads

    def judge_disk(self, process, disk, broken, perhaps=()):
        extents = joined(*fields(process.do("extents"), extents=list))
        same("size", sum(extent["length"] for extent in extents), disk["size"])
        if "extents" in disk:
            for found, stated in itertools.zip_longest(extents, disk["extents"]):
                same("extents", found, stated)
        content = Sparse.stated(disk, self.folder)
        self.settle(process, content, perhaps)
        is_whole = disk["size"] <= WHOLE
        for extent in disk.get("extents", extents):
            start, end = extent["offset"], extent["offset"] + extent["length"]
            if extent["held"] == "unreadable":
                self.judge_unreadable(process, start, end, broken)
                is_whole = False
                continue
            for first, last in probes(start, end, content):
                same_bytes(self.read(process, first, last), content.read(first, last), first)
        if is_whole and disk["size"]:                   # across all extents at once
            data = self.read(process, 0, disk["size"])
            same_bytes(data, content.read(0, disk["size"]), 0)
            if "sha256" in disk:
                same("sha256", hashlib.sha256(data).hexdigest(), disk["sha256"])

    def read(self, process, start, end):
        text, = fields(process.do("read", offset=start, length=end - start), data=str)
        if len(text) != 2 * (end - start) or not re.fullmatch("[0-9a-fA-F]*", text):
            raise Failure(f"read: at {start} no {end - start} bytes in hexadecimal: {one_line(text, 40)}")
        return bytes.fromhex(text)

    def settle(self, process, content, writes):
        """Takes over what is found in each sector that was written and not flushed, if it is old or new (law O)."""
        touched = (range(write["offset"] // SECTOR, -(-(write["offset"] + write["length"]) // SECTOR)) for write in writes)
        for number in sorted(set().union(*touched)):
            start, end = number * SECTOR, min(number * SECTOR + SECTOR, content.length)
            sector = bytearray(content.read(start, end))
            may_be = [bytes(sector)]
            for write in writes:
                pattern = bytes.fromhex(write["pattern"])
                for at in range(max(start, write["offset"]), min(end, write["offset"] + write["length"])):
                    sector[at - start] = pattern[(at - write["offset"]) % len(pattern)]
                may_be.append(bytes(sector))
            found = self.read(process, start, end)
            if found not in may_be:
                raise Failure(f"the sector at {start} is neither old nor new")
            content.put(start, found)

    def judge_unreadable(self, process, start, end, broken):
        """Every read that touches the stretch fails, however little of it."""
        for first, last in ((start, start + 1), (end - 1, end), (start, min(end, start + WHOLE))):
            with during(f"bytes [{first}, {last}), which nobody knows"):
                answer = process.ask("read", offset=first, length=last - first)
                if "error" not in answer:
                    raise Failure("are read")
                self.judge_rule(answer, broken)

    # What is told besides

    def judge_bitmaps(self, process, case):
        """The order is free."""
        def in_order(items):
            return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))

        def told(answer):
            bitmaps, none = answer.get("bitmaps", []), answer.get("no_bitmaps", [])
            fields({"bitmaps": bitmaps, "no_bitmaps": none}, bitmaps=list, no_bitmaps=list)
            for item in bitmaps + none:
                fields(item, name=str)
            yield "bitmaps", in_order({name: item.get(name, False) for name in BITMAP} for item in bitmaps)
            yield "no bitmaps", in_order([item["name"], item.get("broken")] for item in none)
            yield "point", answer.get("point")

        for (what, found), (_, stated) in zip(told(process.do("bitmaps")), told(case)):
            same(what, found, stated)

    def judge_check(self, process, case):
        """A check finds a rule that an open fails for, and nothing in a file that is right by itself."""
        broken = case.get("broken", [])
        with_others = "parents" in case or "SID-02" in broken or ("beside" in case or "group" in case) and broken
        if with_others or case["result"] not in (*OPENS, "invalid"):
            return
        answer = process.do("check", **{name: case[name] for name in ("open", "volume") if name in case})
        found, = fields(answer, rules=list)
        none = [item["broken"] for item in case.get("no_bitmaps", ()) if "beside" not in case]
        if not broken:
            same("check", [rule for rule in found if rule not in none], [])
        elif not any(rule in found for rule in broken):
            raise Failure(f"check: {one_line(found)} instead of {' or '.join(broken)}")
        if "told" in answer:
            found = found + fields(answer, told=list)[0]
            same("check, of records that are no bitmaps", [rule for rule in none if rule in found], none)

    # What is left

    def judge_then(self, before):
        case, judge = self.case, self.options.judge
        left = self.restored("left")
        self.produce(left)
        if "after" in case:
            after = {name: case["after"][name] for name in ("disk", "perhaps") if name in case["after"]}
            again = {**self.opening(case), "result": case["result"], **after}
            with during("afterwards"):
                header = self.judge_open(judge, again, left, bitmaps=False)
                self.judge_after(case["after"], header, case["header"], is_newer="perhaps" not in case["after"])
        for last in case.get("finally", ()):
            with during(f"finally, {last['open']} {last.get('parents', [])}"):
                if last.get("raw"):                     # its bytes are the disk: nobody is needed to read it
                    self.judge_raw(left / last["open"], last["disk"])
                    continue
                header = self.judge_open(judge, last, left)
                if "after" in last:
                    self.judge_after(last["after"], header, self.header_before(last, before))

    def produce(self, folder):
        """Does what guests and jobs do."""
        case, producer, steps = self.case, self.options.producer, iter(self.case["then"])
        needs = self.needs(case) | {"write"}
        needs |= {"jobs"} if any(step["do"] in JOBS for step in case["then"]) else set()
        needs |= {"live"} if "live" in self.flags else set()
        producer.must_have(needs)
        is_killed = True
        while is_killed:
            with during("then"), producer.begin(folder) as process:
                self.judge_result(process.ask("open", **self.opening(case, write=True)), case)
                is_killed = self.play(process, steps, folder)

    def play(self, process, steps, folder):
        """Goes on to the end of one process, which is killed there. Returns whether another one goes on."""
        for step in steps:
            if step["do"] == "kill":
                return True
            if "refused" not in step:
                process.do(**step)
                continue
            before = contents(folder)
            answer = process.ask(**{name: value for name, value in step.items() if name != "refused"})
            with during(f"{step['do']}, which must be refused"):
                if "error" not in answer:
                    raise Failure("is done")
                self.judge_rule(answer, step["refused"])
                unchanged(before, folder, only_old=True)
        return False

    def judge_raw(self, path, disk):
        found, expected = contents(path.parent).get(path.name), Sparse.stated(disk, self.folder)
        if not found:
            raise Failure("there is no such file")
        same("size", found.length, expected.length)
        for number in sorted(found.pages.keys() | expected.pages.keys()):
            start, end = number * PAGE, min(number * PAGE + PAGE, expected.length)
            same_bytes(found.read(start, end), expected.read(start, end), start)

    def header_before(self, last, before):
        """The header that a file had, if it was there. The case states that of its top."""
        case, name = self.case, last["open"]
        if name == case["open"]:
            return case["header"]
        if not (before / name).exists():
            return None
        parents = case.get("parents", [])
        below = parents[parents.index(name) + 1:] if name in parents else last.get("parents", [])
        with self.options.judge.begin(before) as process:
            answer = process.do("open", open=name, parents=below, trust_links=True, ignore_marks=True)
            return fields(answer, header=dict)[0]

    def judge_after(self, after, header, before, is_newer=False):
        """`before` is the header before, if there was one. A guest's writes are sure to make a newer one."""
        fields(header, uuid=str, epoch=str, sequence=int)
        parent = header.get("parent")
        found = {**header, "complete": header.get("complete") is True and not parent}
        if isinstance(parent, dict):
            found["visible_length"] = parent.get("visible_length")
        if before:
            fields(before, uuid=str, epoch=str, sequence=int)
            same("uuid", header["uuid"], before["uuid"])
            if header["sequence"] < before["sequence"] + is_newer:
                raise Failure(f"sequence: {header['sequence']}, and was {before['sequence']} before")
            found["new_epoch"] = header["epoch"] != before["epoch"]
        for name in sorted(after.keys() - {"disk", "perhaps"} | {"merge_mark", "copy_mark", "group_mark"}):
            same(name, found.get(name), after.get(name))

    # Without an adapter

    def judge_command(self):
        case, sha256 = self.case, self.case.get("disk", {}).get("sha256")
        needs_more = any(name in case for name in (*OPENING[2:], "write"))
        if needs_more or case["result"] == "valid" and not sha256:
            raise Missing("adapter")
        folder = self.restored("before")
        before = contents(folder)
        command = [*self.options.argv, case["open"], *case.get("parents", ())]
        with Process(command, folder, self.options) as process:
            code, output = process.end()
            if code not in (0, 1) or code == 1 and sha256:
                raise Failure(process.how_it_ended())
        unchanged(before, folder)
        if code == 0 and not sha256:
            raise Failure(f"is read, and is {case['result']}: {' or '.join(case['broken'])}")
        if code == 0:
            same("sha256", output.decode(errors="replace").strip().lower(), sha256)


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
    pages = ((max(start, number * PAGE), min(end, number * PAGE + PAGE)) for number in sorted(content.pages))
    return [(start, start + PAGE), (end - PAGE, end), *(page for page in pages if page[0] < page[1])]


# The command


def load(only):
    """Returns the vectors, or those of the areas, names and rules `only`."""
    vectors, unknown = [], set(only or ())
    for entry in json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))["vectors"]:
        path = HERE / entry["path"]
        text = path.read_bytes()
        if hashlib.sha256(text).hexdigest() != entry["sha256"]:
            raise Failure(f"{path} is not the vector that manifest.json lists")
        vector = {**json.loads(text), "folder": path.parent}
        words = {vector["name"], vector["name"].split("-")[0], *vector["rules"], *report.broken_in(vector)}
        if not only or words & set(only):
            vectors.append(vector)
        unknown -= words
    if unknown:
        raise Failure(f"no vector is called, or is about, {' or '.join(sorted(unknown))}")
    return vectors


def as_command(text):
    """Splits a command. It is run elsewhere: a word with a slash that names a file is made absolute."""
    words = shlex.split(text)
    return [os.path.abspath(word) if "/" in word and os.path.exists(word) else word for word in words]


def parsed(arguments):
    parser = argparse.ArgumentParser(description="Holds an implementation of LVD against the vectors.")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--adapter", metavar="COMMAND", type=as_command, help="asked what ADAPTER.md says")
    who.add_argument("--argv", metavar="COMMAND", type=as_command, help="run with FILE [PARENT ...]")
    for name, metavar, kind, default, what in (
            ("producer", "COMMAND", as_command, None, "another adapter, that does what guests and jobs do"),
            ("only", "WORD,...", lambda text: text.split(","), None, "areas, names or rules"),
            ("json", "FILE", pathlib.Path, None, "write every case with its verdict"),
            ("junit", "FILE", pathlib.Path, None, "write the same for a CI server"),
            ("coverage", "FILE", pathlib.Path, None, "write what became of the vectors of each rule"),
            ("keep", "DIR", pathlib.Path, None, "keep the files of what failed"),
            ("scratch", "DIR", pathlib.Path, None, "where files are made; the flag `huge` needs tmpfs"),
            ("jobs", "N", int, os.cpu_count() or 1, "adapters at once"),
            ("seconds", "N", float, 60, "the time of an adapter"),
            ("memory", "MIB", int, 1024, "the address space of an adapter; 0: without limit")):
        parser.add_argument(f"--{name}", metavar=metavar, type=kind, default=default, help=what)
    parser.add_argument("--strict", action="store_true", help="who fails must say result and rule")
    options = parser.parse_args(arguments)
    if not options.scratch:
        options.scratch = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
    return options


def prepared(options):
    """Returns the trials, and what the implementations are called."""
    options.judge = Adapter(options.adapter, options) if options.adapter else None
    options.producer = Adapter(options.producer, options) if options.producer else options.judge
    if options.argv and not shutil.which(options.argv[0]):
        raise Failure(f"there is no command {options.argv[0]}")
    trials = [Trial(vector, number, options) for vector in load(options.only)
              for number in range(len(vector["cases"]))]
    if options.argv:
        return trials, {"argv": shlex.join(options.argv)}
    return trials, {"adapter": options.judge.implementation, "producer": options.producer.implementation}


def main(arguments=None):
    options = parsed(arguments)
    try:
        trials, names = prepared(options)
    except (Failure, OSError) as failure:
        print(f"run.py: {failure}", file=sys.stderr)
        return 2
    with concurrent.futures.ThreadPoolExecutor(max(options.jobs, 1)) as pool:
        for trial in pool.map(Trial.run, trials):
            if trial.verdict == "failed":
                print(f"FAIL {trial.title} ({', '.join(trial.rules())}): {trial.what}", flush=True)
    rules, name = report.coverage(trials, HERE.parent / "spec"), one_line(next(iter(names.values())))
    if options.json:
        options.json.write_text(json.dumps(report.as_json(trials, names), indent=1) + "\n")
    if options.junit:
        options.junit.write_text(report.as_junit(trials, name), encoding="utf-8")
    if options.coverage:
        options.coverage.write_text(json.dumps(rules, indent=1) + "\n")
    if (HERE.parent / "spec").is_dir():
        print(report.musts(rules))
    print(f"{name}: {report.summary(trials)}")
    return int(any(trial.verdict == "failed" for trial in trials))


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")
    sys.exit(main())
