#!/usr/bin/env python3
"""Makes assurance.md of the figures in assurance.json, which runs have left.

    assurance.py RECORDS    takes in the records of runs that lie in this folder, and writes both anew
    assurance.py            writes the page anew
    assurance.py --check    fails if the page would come out otherwise

A record is what a test or a campaign writes to NAME.json where LVD_RECORDS says. `.ci/assurance` makes all of them; the
page tells of which commit each is.
"""

import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
FIGURES, PAGE = HERE / "assurance.json", HERE / "assurance.md"

INTRODUCTION = """# What was tested, and how much

This page is made of figures that runs of the tests have left (`python3 spec/assurance.py`); nobody types them. It is
not normative. `.ci/assurance` runs everything whole and takes hours; each change is tested with a part of it.
"""

# Fault classes, and what makes them happen.
FAULTS = [
    ("writes since the last barrier are lost", "crash simulator: each sector of each write, old or new, whatever others do"),
    ("any subset of them arrives, in any order", "crash simulator: every subset where a point has up to 2^12 (CI) or 2^16 of them, a sample elsewhere"),
    ("a write is torn", "crash simulator: at each sector"),
    ("a sector is garbage", "crash simulator: new space of block devices is poison; vectors `alc`, `pag`, `bmp` with bad sectors"),
    ("the length of a file is lost", "crash simulator: lengths are in flight as writes are"),
    ("the directory entry is lost", "crash simulator: until the directory is synced"),
    ("the process is killed", "crash simulator: in each operation; kill -9 of the real command and server"),
    ("no space", "crash simulator: in each operation"),
    ("a barrier fails, and the pages count as clean", "crash simulator: each barrier; who was told writes nothing more to the file"),
    ("a barrier fails, and reads show what is durable", "crash simulator: each barrier, as above"),
    ("a write cannot be written back, and the next barrier tells once", "crash simulator: after every third operation; the barrier may be the next process's"),
    ("a system call stops short, or is interrupted", "storage tests: every call that moves bytes takes a part of them, every other one none"),
    ("bits rot, sectors become zeros", "crash simulator: every sector of metadata, in states of every scenario; the newest header of each state is taken away; vectors with changed bytes, every byte of a header"),
    ("a write that was acknowledged is not made, or lands elsewhere", "crash simulator: every sector of metadata as it was before, or with what was meant for another one; pairs of harms"),
    ("a crash comes amid what follows a crash", "crash simulator: three in a row"),
    ("several files fail one by one", "crash simulator: layers, sidecars, targets and groups each have their own cache"),
    ("threads meet in any order", "concurrency checker: schedules of a seed, on the real code"),
    ("the peer lies, is cut off, or goes", "scripted NBD servers and clients, fuzz targets, connections cut at each byte"),
]

# As their own pages and reports say.
OTHERS = [
    ("SQLite", "10 of 14 fault classes; n-th failure loops; about 500 million fuzz cases a day; 100 % branch coverage"),
    ("TigerBeetle", "6 of 14; a simulator on 1024 cores, day and night"),
    ("QEMU block layer", "2 of 14; scripts; no crash model; no format target in OSS-Fuzz"),
]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"


def number(value):
    return f"{value:,}".replace(",", " ")


def states(record):
    head = ["", "points", "in full", "states", "different disks", "gone on from", "faults", "seconds"]
    keys = ["points", "in_full", "states", "disks", "go_on", "faults"]
    return table(head, [[row["name"], *(number(row[key]) for key in keys), f"{row['seconds']:.1f}"]
                        for row in record["rows"]])


def rate(record):
    total = record["rows"][-1]
    return (f"{number(total['states'])} states in {total['seconds']:.0f} s: {number(round(total['states'] / total['seconds']))}"
            f" a second, of which {number(round(total['disks'] / total['seconds']))} were disks not seen before, each opened"
            " and read whole.\n")


def part(figures, name, title, text, body):
    """A section of the page, if there is a record for it."""
    record = figures.get(name)
    if record is None:
        return f"## {title}\n\nNot run yet.\n"
    return f"## {title}\n\n{text(record) if callable(text) else text}\n{body(record)}\nOf commit `{record['commit']}`.\n"


def page(figures):
    many = lambda prefix: [record for name, record in sorted(figures.items()) if name.startswith(prefix)]
    manifest = json.loads((HERE.parent / "testdata/manifest.json").read_text())
    groups = manifest["vectors"]
    refused = sum(1 for vector in groups if vector.get("result") != "valid")
    parts = [
        INTRODUCTION,
        "## Faults\n\n" + table(["what goes wrong", "who makes it happen"], FAULTS),
        part(figures, "crash", "Loss of power and other faults, scenario by scenario",
             lambda record: ("Every point of every scenario with up to 2^16 states in full.\n" if record["full"] else
                             "Points of up to 2^12 states in full.\n") + "\n" + rate(record), states),
        part(figures, "sequences", "All short sequences of what can happen to a disk",
             lambda record: "Each of 16 events after each other: of one, two and more.\n\n" + rate(record), states),
        part(figures, "lives", "Long lives",
             "Disks of all shapes, each used, crashed and used again: 200 to 2000 events and some 20 losses of power.\n",
             lambda record: table(["lives", "events", "losses of power", "deaths of the process", "seconds"],
                                  [[*(number(record[key]) for key in ("lives", "events", "crashes", "deaths")),
                                    f"{record['seconds']:.1f}"]])),
        part(figures, "rot", "Metadata that goes bad",
             lambda record: f"On {number(record['states'])} states of all scenarios, in {record['seconds']:.0f} s. *Told*: a read"
             " or an open was refused, and nothing read wrong. *Not told*: what no checksum can tell (format.md, sections 2"
             " and 6), and a disk or a bitmap was not what it had been; no block read as what never was its own. A write"
             " that is misdirected is also one that is lost: that is what nobody can tell of it.\n",
             lambda record: table(["", "where", "harms", "right", "told", "not told"],
                                  [[row["what"], row["where"], *(number(row[key]) for key in
                                    ("harms", "right", "told", "untold"))] for row in record["rows"]])),
        part(figures, "steps", "Barriers and orders, each left out",
             "Without the step the simulator finds a state that breaks a law, in the scenario that is named.\n",
             lambda record: table(["rule", "", "found in"],
                                  [[row["rule"], row["text"], row["scenario"] or "**not found**"]
                                   for row in record["rows"]])),
    ]
    parts.append(part(figures, "protocols", "Protocols, walked whole",
                      "Every sequence of so many events of a small world: requests, steps of jobs, sessions, other programs, a"
                      " process that dies in any operation, four losses of power. A state that was seen before is not gone on"
                      " from; in each new one all that the losses would leave is held against the laws.\n",
                      lambda record: table(["protocol", "events in a row", "states", "transitions", "seconds"],
                                           [[row["name"], row["depth"], number(row["states"]), number(row["transitions"]),
                                             f"{row['seconds']:.1f}"] for row in record["rows"]])))
    parts.append(part(figures, "protocol-steps", "Steps and mistakes that protocols find",
                      "One of the shortest sequences that break a law without the step, or with the mistake.\n",
                      lambda record: table(["protocol", "without the step, or with the mistake", "found by"],
                                           [[row["name"], row["text"], row["sequence"] or "**not found**"]
                                            for row in record["rows"]])))
    stories = many("story-")
    if stories:
        rows = [[record["name"].replace("_", " "), number(record["runs"]), f"{record['seconds']:.0f}"] for record in stories]
        parts.append("## Threads\n\nEach story in so many orders of its steps.\n\n" + table(["story", "runs", "seconds"], rows))
    parts.append(part(figures, "mistakes", "Mistakes, planted",
                      "What others got wrong, and what a lock or a mark is there for: each is noticed by a story.\n",
                      lambda record: table(["mistake", "noticed by"],
                                           [[row["text"], (row["story"] or "**nobody**").replace("_", " ")]
                                            for row in record["rows"]])))
    kills = many("kills-")
    if kills:
        parts.append("## Servers killed\n\n`kill -9` at and around every event of a job, while a guest writes.\n\n" + table(
            ["", "kills"], [[record["name"].replace("_", " "), number(record["kills"])] for record in kills]))
    parts.append(part(figures, "fuzz", "Fuzzing", "Edges are of the library's code and of the target's. What was found is"
                      " mended, and its story is a test.\n", lambda record: table(
        ["target", "executions", "core seconds", "edges", "inputs kept", "found"],
        [[row["name"], number(row["executions"]), number(row["seconds"]), number(row["edges"]), number(row["corpus"]),
          row["findings"]] for row in record["rows"]])))
    parts.append(part(figures, "coverage", "Coverage", "Regions of the format's code that tests reach which need neither peers nor"
                      " minutes.\n", lambda record: table(
        ["folder", "regions", "reached", "%"],
        [[f"`src/{row['name']}`", number(row["regions"]), number(row["reached"]),
          f"{100 * row['reached'] / row['regions']:.1f}"] for row in record["rows"]])))
    parts.append(part(figures, "mutants", "Code changed, one small thing at a time",
                      "What cargo-mutants has to change in the format's code: what a function returns, an operator, an arm of a"
                      " match. *Equal*: nobody can notice it, as .ci/mutants.equal argues for each.\n",
                      lambda record: table(["folder", "changes that compile", "tried", "noticed", "equal", "left"],
                                           [[f"`src/{row['name']}`", *(number(row[key]) for key in
                                             ("changes", "tried", "noticed", "equal")),
                                             row["tried"] - row["noticed"] - row["equal"]] for row in record["rows"]])))
    parts.append(f"## Vectors\n\n{number(len(groups))} vectors, {number(refused)} of them of files that are not valid;"
                 " every rule has one or says why it cannot (trace.md).\n")
    parts.append("## Others\n\n" + table(["", "what they tell of themselves"], OTHERS))
    return "\n".join(parts)


def main(arguments):
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    if arguments and arguments[0] != "--check":
        commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], check=True, capture_output=True,
                                text=True).stdout.strip()
        for path in sorted(pathlib.Path(arguments[0]).glob("*.json")):
            record = json.loads(path.read_text())
            record = {"rows": record} if isinstance(record, list) else record
            figures[path.stem] = {"commit": commit, **record}
        FIGURES.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    made = page(figures)
    if arguments == ["--check"]:
        if PAGE.read_text() != made:
            sys.exit("assurance.md is not what assurance.py makes of assurance.json")
    else:
        PAGE.write_text(made)


if __name__ == "__main__":
    main(sys.argv[1:])
