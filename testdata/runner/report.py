"""What came out, for people and for machines."""

import collections
import itertools
import re
from xml.etree import ElementTree

from .failures import one_line

VERDICTS = ("failed", "skipped", "passed")              # of two cases of a vector the first of these counts


def broken_in(vector):
    """Returns the rules that a vector shows broken."""
    rules = set()
    for case in vector["cases"]:
        for opened in (case, *case.get("finally", ())):
            rules.update(opened.get("broken", ()))
            rules.update(none["broken"] for none in opened.get("no_bitmaps", ()))
        for step in case.get("then", ()):
            rules.update(step.get("refused", ()))
    return rules


def specified(spec):
    """Returns the rules of the specification in the folder `spec`, if there is one, by number."""
    rules = {}
    for page in sorted(spec.glob("*.md")):
        for paragraph in page.read_text(encoding="utf-8").split("\n\n"):
            text = " ".join(paragraph.split())
            if match := re.match(r"\*\*([A-Z]+-\d+)\*\* \(([^,)]+), (\w+)\) (.*?\.)(?= |$)", text):
                number, *rule = match.groups()
                rules[number] = dict(zip(("role", "level", "sentence"), rule))
    return rules


def coverage(trials, spec):
    """Returns, of each rule, how many vectors keep it and how many show it broken, and how they ended."""
    nothing = dict.fromkeys(("valid", "invalid", "passed", "failed", "skipped"), 0)
    rules = {number: {**rule, **nothing} for number, rule in specified(spec).items()}
    for _, group in itertools.groupby(trials, key=lambda trial: trial.vector["name"]):
        group = list(group)
        vector, verdict = group[0].vector, min((trial.verdict for trial in group), key=VERDICTS.index)
        broken = broken_in(vector)
        for number in broken | set(vector["rules"]):
            rule = rules.setdefault(number, dict(nothing))
            rule["invalid" if number in broken else "valid"] += 1
            rule[verdict] += 1
    return dict(sorted(rules.items()))


def musts(rules):
    """Says how many of the rules that bind an implementation have a vector that passed."""
    by_role = collections.defaultdict(list)
    for rule in rules.values():
        if rule.get("level") == "MUST":
            by_role[rule["role"]].append(rule["passed"] > 0)
    return "MUST rules with a vector that passed: " + ", ".join(
        f"{role} {sum(passed)} of {len(passed)}" for role, passed in sorted(by_role.items()))


def summary(trials):
    verdicts = collections.Counter(trial.verdict for trial in trials)
    text = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("passed", "failed", "skipped"))
    missing = collections.Counter(trial.what for trial in trials if trial.verdict == "skipped")
    if missing:
        text += f" (for lack of {', '.join(f'{what}: {count}' for what, count in sorted(missing.items()))})"
    remarks = collections.Counter(remark for trial in trials for remark in trial.remarks)
    return text + "".join(f"; {remark}: {count}" for remark, count in sorted(remarks.items()))


def as_json(trials, names):
    return {**names, "cases": [
        {"vector": trial.vector["name"], "case": trial.number + 1, "rules": trial.rules(),
         "verdict": trial.verdict, "what": trial.what, "remarks": sorted(trial.remarks),
         "seconds": round(trial.seconds, 3)} for trial in trials]}


def as_junit(trials, name):
    verdicts = collections.Counter(trial.verdict for trial in trials)
    suite = ElementTree.Element("testsuite", name=one_line(name), tests=str(len(trials)), errors="0",
                                failures=str(verdicts["failed"]), skipped=str(verdicts["skipped"]))
    for trial in trials:
        area = trial.vector["name"].split("-")[0]
        case = ElementTree.SubElement(suite, "testcase", classname=area, name=trial.title,
                                      time=f"{trial.seconds:.3f}")
        if trial.verdict != "passed":
            tag = "failure" if trial.verdict == "failed" else "skipped"
            ElementTree.SubElement(case, tag, message=f"{', '.join(trial.rules())}: {trial.what}")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
