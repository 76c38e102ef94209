#!/usr/bin/env python3
"""Makes a small site of the pages in this folder, and looks at everything that they refer to.

    book.py OUT        writes the site into the folder OUT
    book.py --check    writes it nowhere, and tries lvd.magic too where there is a file(1)

README.md has the reading order. Each mention of a rule becomes a link to it, and so does each mention of a page or of a
section of one. Rules, sections, anchors and files that are not there make it fail.

Needs Markdown for Python: pip install markdown==3.9
"""

import argparse
import html
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from html.parser import HTMLParser

import markdown

SPEC = pathlib.Path(__file__).resolve().parent
ROOT = SPEC.parent
INDEX = "rules.html"
OTHER_PAGES = ("README.md", "CHANGELOG.md", "testdata/README.md")       # which refer to the pages, and are none

Rule = namedtuple("Rule", "number page role level sentence")

RULE = re.compile(r"\*\*([A-Z]{3}-\d\d)\*\* \(([a-z]+), ([A-Z]+)\) (.*)", re.S)
FENCED = re.compile(r"^```.*?^```$", re.S | re.M)
# In text: a rule, or a page, or a section of a page, with what was said of the section. `HDR_05` is a rule in Python.
MENTION = re.compile(r"""(?<![\w-])(?P<rule>[A-Z]{3}[-_]\d\d)(?![\w-])
    | (?<![\w/.])(?P<page>[a-z]+\.md|README\.md)(?:,\s+section\s+(?P<section>\d+))?
    | (?<!\d,\s)section\s+(?P<own>\d+)(?![\d.]*\d)(?:\s+of\s+(?P<of>[a-z]+\.md))?""", re.X)
REPOSITORY_FILE = re.compile(r"(?<![\w/.-])(?:spec|src|testdata|tests|fuzz|benches)/[\w./-]*\w")


def site_name(page):
    return "index.html" if page == "README.md" else page.replace(".md", ".html")


def slug(heading, _separator="-"):
    """The anchor of a heading, as the usual viewers of Markdown make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def reading_order():
    table = (SPEC / "README.md").read_text().split("## Reading order")[1].split("\n## ")[0]
    return re.findall(r"^\| \[[^]]*\]\(([\w.]+)\)", table, re.M)


def paragraphs(text):
    return FENCED.sub("", text).split("\n\n")


def find_rules(pages):
    rules = {}
    for page in pages:
        for paragraph in paragraphs((SPEC / page).read_text()):
            if match := RULE.match(paragraph):
                number, role, level, text = match.groups()
                sentence = re.match(r".*?\.(?=\s|$)", text, re.S)[0]
                rules[number] = Rule(number, page, role, level, " ".join(sentence.split()))
    return rules


def prepared(text):
    """The text of a page as the converter wants it: each rule with an anchor, inner lists by four blanks."""
    parts = text.split("\n\n")
    for at, part in enumerate(parts):
        if match := RULE.match(part):
            parts[at] = f"{part.rstrip()}\n{{: #{match[1]} .rule }}"
    return re.sub(r"^   (?=\d+\. )", "    ", "\n\n".join(parts), flags=re.M)


def converted(text):
    extensions = ["tables", "fenced_code", "attr_list", "sane_lists", "toc"]
    return markdown.markdown(text, extensions=extensions, extension_configs={"toc": {"slugify": slug}})


class Page(HTMLParser):
    """One page of the site: its HTML with all links, the anchors it has, and what it refers to."""

    def __init__(self, book, name, text):
        super().__init__(convert_charrefs=False)
        self.book, self.name, self.out = book, name, []
        self.anchors, self.links, self.headings, self.faults = set(), [], [], []
        self.open, self.heading = [], None
        self.feed(converted(prepared(text)))
        self.close()

    def refer(self, target):
        """Return where a link leads on the site, or None if it leads out of it."""
        if re.match(r"[a-z]+:", target):
            return target
        path, _, anchor = target.partition("#")
        if path and not (SPEC / path).exists():
            self.faults.append(f"there is no {path}")
        if path.startswith("../"):
            return None
        page = path or self.name
        if page in self.book.order:
            self.links.append((page, anchor))
            return ("" if page == self.name and anchor else site_name(page)) + (f"#{anchor}" if anchor else "")
        self.book.files.add(page)
        return page

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if "id" in attributes:
            self.anchors.add(attributes["id"])
        for name in ("href", "src"):
            if name in attributes:
                attributes[name] = self.refer(attributes[name])
        if tag == "h2":
            self.heading = [attributes["id"], ""]
        if tag == "table":
            self.out.append('<div class="table">')
        words = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items() if value is not None)
        self.out.append(f"<{tag}{words}>")
        if tag not in ("img", "hr", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{self.name}: </{tag}>"
        self.out.append(f"</{tag}>")
        if tag == "table":
            self.out.append("</div>")
        if tag == "h2":
            self.headings.append(tuple(self.heading))
            self.heading = None

    def handle_data(self, data):
        if self.heading:
            self.heading[1] += data
        if "p" in self.open and re.search(r"\n(-|1\.) ", data):
            self.faults.append(f"a list without an empty line before it: {data.strip()[:40]}")
        if "code" in self.open:
            for path in REPOSITORY_FILE.findall(data):
                if not (ROOT / path).exists():
                    self.faults.append(f"there is no {path}")
        is_plain = "a" in self.open or self.heading
        self.out.append(data if is_plain else MENTION.sub(self.linked, data))

    def handle_entityref(self, name):
        self.out.append(f"&{name};")

    def handle_charref(self, name):
        self.out.append(f"&#{name};")

    def handle_comment(self, data):
        pass

    def linked(self, mention):
        """Return a mention as a link, if it is one of this book."""
        if mention["rule"]:
            number = mention["rule"].replace("_", "-")
            rule = self.book.rules.get(number)
            if not rule:
                if number[:3] in self.book.families:
                    self.faults.append(f"there is no rule {number}")
                return mention[0]
            return self.link(rule.page, number, mention[0], ' class="number"')
        page, section = mention["page"] or mention["of"] or self.name, mention["section"] or mention["own"]
        if page not in self.book.order or "pre" in self.open:
            return mention[0]
        if not section:
            return self.link(page, "", mention[0])
        anchor = self.book.section(page, section)
        if not anchor:
            self.faults.append(f"{page} has no section {section}")
        return self.link(page, anchor, mention[0])

    def link(self, page, anchor, text, more=""):
        target = self.refer(f"{page}#{anchor}" if anchor else page)
        return f'<a href="{html.escape(target)}"{more}>{text}</a>'


class Book:
    def __init__(self):
        self.order = reading_order()
        self.texts = {page: (SPEC / page).read_text() for page in self.order}
        self.rules = find_rules(self.order)
        self.families = {number[:3] for number in self.rules}
        self.files = {"book.css"}
        self.pages = [Page(self, page, text) for page, text in self.texts.items()]
        self.titles = {page: text.split("\n")[0].lstrip("# ") for page, text in self.texts.items()}

    def section(self, page, number):
        """The anchor of a numbered section of a page."""
        match = re.search(rf"^## ({number}\. .*)$", FENCED.sub("", self.texts[page]), re.M)
        return match and slug(match[1])

    def faults(self):
        anchors = {page.name: page.anchors for page in self.pages}
        for page in self.pages:
            yield from (f"{page.name}: {fault}" for fault in page.faults)
            for target, anchor in page.links:
                if anchor and anchor not in anchors[target]:
                    yield f"{page.name}: {target} has no #{anchor}"
        for path in SPEC.glob("*.md"):
            if path.name not in self.order:
                yield f"{path.name}: README.md does not list it"
        for name in OTHER_PAGES:
            for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text()):
                path, _, anchor = target.partition("#")
                there = (ROOT / name).parent / path
                if not re.match(r"[a-z]+:", target) and path and not there.exists():
                    yield f"{name}: there is no {target}"
                if anchor and there.parent == SPEC and anchor not in anchors.get(there.name, ()):
                    yield f"{name}: there is no {target}"

    def sidebar(self, current, headings=()):
        items = []
        for page in [*self.order, INDEX]:
            mark = ' aria-current="page"' if page == current else ""
            title = "All rules" if page == INDEX else html.escape(self.titles[page])
            inner = "".join(f'<li><a href="#{anchor}">{html.escape(text)}</a></li>' for anchor, text in headings)
            inner = f"<ol>{inner}</ol>" if page == current and inner else ""
            items.append(f'<li><a href="{site_name(page)}"{mark}>{title}</a>{inner}</li>')
        return f'<nav class="pages"><ol>{"".join(items)}</ol></nav>'

    def footer(self, name):
        def link(page, words):
            if not page:
                return "<span></span>"
            return f'<a href="{site_name(page)}">{words} {html.escape(self.titles[page])}</a>'

        at = self.order.index(name)
        before = self.order[at - 1] if at else None
        after = self.order[at + 1] if at + 1 < len(self.order) else None
        return f'<footer>{link(before, "Before:")}{link(after, "Next:")}</footer>'

    def html(self, name, title, body, headings=()):
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="book.css">
</head>
<body>
{self.sidebar(name, headings)}
<main>
{body}
</main>
</body>
</html>
"""

    def index(self):
        """All rules, in the reading order."""
        rows = []
        for rule in self.rules.values():
            sentence = re.sub(r"^<p>|</p>$", "", converted(rule.sentence))
            link = f'<a class="number" href="{site_name(rule.page)}#{rule.number}">{rule.number}</a>'
            rows.append(f"<tr><td>{link}</td><td>{rule.role}</td><td>{rule.level}</td><td>{sentence}</td></tr>")
        return """<h1>All rules</h1>
<p>Each with whom it binds, how strongly, and its first sentence. What follows there explains, and binds as well.</p>
<div class="table"><table>
<tr><th>rule</th><th>binds</th><th>how</th><th>first sentence</th></tr>
""" + "\n".join(rows) + "\n</table></div>"

    def write(self, out):
        out.mkdir(parents=True, exist_ok=True)
        for page in self.pages:
            body = "".join(page.out) + self.footer(page.name)
            (out / site_name(page.name)).write_text(self.html(page.name, self.titles[page.name], body, page.headings))
        (out / INDEX).write_text(self.html(INDEX, "All rules", self.index()))
        for name in self.files:
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(SPEC / name, out / name)


def described(header):
    """What file(1) says of an image or sidecar with this header, in the words of lvd.magic."""
    state = {"closed": "closed", "filling": "not closed after filling", "writing": "not closed after writing"}
    kind = {"image": "disk image", "sidecar": "sidecar"}[header["kind"]]
    parts = [f"LVD {kind}, version 1", f"{header['virtual_size']} bytes", state[header["state"]]]
    if header["kind"] == "image":
        parts.append("complete" if header["complete"] else "overlay")
    return ", ".join(parts)


def magic_faults():
    """Yield the vectors that open, and of which file(1) says something else than their header does."""
    testdata = ROOT / "testdata"
    entries = json.loads((testdata / "manifest.json").read_text())["vectors"]
    vectors = [json.loads((testdata / entry["path"]).read_text()) for entry in entries if entry["result"] == "valid"]
    vectors = [vector for vector in vectors if "huge" not in vector.get("flags", ())]
    with tempfile.TemporaryDirectory() as scratch:
        restore = [sys.executable, testdata / "restore.py", scratch, *(vector["name"] for vector in vectors)]
        subprocess.run(restore, check=True)
        for vector in vectors:
            case = vector["cases"][0]
            path = os.path.join(scratch, vector["name"], case["open"])
            slots = [b"", b""]
            with open(path, "rb") as file:
                for number in (0, 1):
                    file.seek(number * 65536)
                    slots[number] = file.read(65536)
            command = ["file", "--brief", "--magic-file", SPEC / "lvd.magic", path]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            # Of slots that differ it may be the other one that counts.
            is_right = said == described(case["header"]) if slots[0] == slots[1] else said.startswith("LVD ")
            if not is_right:
                yield f"lvd.magic: {vector['name']}: {said}"


def main():
    parser = argparse.ArgumentParser(description="Makes a small site of the specification.")
    parser.add_argument("out", metavar="OUT", nargs="?", type=pathlib.Path, help="the folder for the site")
    parser.add_argument("--check", action="store_true", help="write nothing, look at everything")
    args = parser.parse_args()
    if bool(args.out) == args.check:
        parser.error("a folder, or --check")
    book = Book()
    faults = list(book.faults())
    if args.check and shutil.which("file"):
        faults += magic_faults()
    for fault in faults:
        print(fault, file=sys.stderr)
    if args.out:
        book.write(args.out)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
