#!/usr/bin/env python3
"""Draws the figures of the pages: figures/NAME.txt becomes figures/NAME.svg.

    figures.py            draws all anew
    figures.py --check    fails if one would come out otherwise

A source is the figure in characters, on a grid. Boxes and lines are box-drawing characters, rounded corners are
╭ ╮ ╰ ╯, and arrows end in ▶ ◀ ▲ ▼. A ░ or ▒ in a box shades it. Anything else is text; two blanks part one text from
the next. In a box they stand in the middle, else each begins where it does here.
"""

import argparse
import pathlib
import re
import sys
from xml.sax.saxutils import escape

FIGURES = pathlib.Path(__file__).parent / "figures"
WIDTH, HEIGHT, MARGIN = 8, 17, 8                        # of a cell, and around the figure
NORTH, EAST, SOUTH, WEST = 1, 2, 4, 8
ARMS = {"─": EAST | WEST, "│": NORTH | SOUTH,
        "┌": EAST | SOUTH, "┐": SOUTH | WEST, "└": NORTH | EAST, "┘": NORTH | WEST,
        "╭": EAST | SOUTH, "╮": SOUTH | WEST, "╰": NORTH | EAST, "╯": NORTH | WEST,
        "├": NORTH | EAST | SOUTH, "┤": NORTH | SOUTH | WEST, "┬": EAST | SOUTH | WEST, "┴": NORTH | EAST | WEST,
        "┼": NORTH | EAST | SOUTH | WEST, "▶": WEST, "◀": EAST, "▲": SOUTH, "▼": NORTH}
ROUND, SHADES = "╭╮╰╯", {"░": "light", "▒": "dark"}
# One style for light and dark: all is drawn in one colour, and shades let what is behind them through.
STYLE = """svg { color: #1f2328; font: 14px system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif }
@media (prefers-color-scheme: dark) { svg { color: #d1d7e0 } }
path { fill: none; stroke: currentColor; stroke-width: 1.25; stroke-linecap: round }
text, .tip { fill: currentColor; stroke: none }
.light { fill: #4a90d9; fill-opacity: .18 }
.dark { fill: #d9822b; fill-opacity: .28 }"""


def middle(column, row):
    return MARGIN + column * WIDTH + WIDTH / 2, MARGIN + row * HEIGHT + HEIGHT / 2


class Figure:
    def __init__(self, text):
        self.rows = text.rstrip("\n").split("\n")
        self.columns = max(map(len, self.rows))

    def at(self, column, row):
        is_inside = 0 <= row < len(self.rows) and 0 <= column < len(self.rows[row])
        return self.rows[row][column] if is_inside else " "

    def arms(self, column, row):
        return ARMS.get(self.at(column, row), 0)

    def runs(self, limit, arms_of, forth, back):
        """Yield the stretches [first, last] of cells that are joined in one direction."""
        first = 0
        for at in range(limit):
            if not (arms_of(at) & forth and arms_of(at + 1) & back):
                if first < at:
                    yield first, at
                first = at + 1

    def boxes(self):
        """Return the smallest boxes, as (left, top, right, bottom) in cells."""
        found = []
        for top in range(len(self.rows)):
            for left in range(self.columns):
                box = self.arms(left, top) & (EAST | SOUTH) == EAST | SOUTH and self.box(left, top)
                if box:
                    found.append(box)
        return found

    def box(self, left, top):
        right = left + 1
        while self.arms(right, top) & WEST:
            if self.arms(right, top) & SOUTH:
                bottom = top + 1
                while self.arms(left, bottom) & NORTH and self.arms(right, bottom) & NORTH:
                    across = (self.arms(column, bottom) & (EAST | WEST) for column in range(left + 1, right))
                    if self.arms(left, bottom) & EAST and all(arms == EAST | WEST for arms in across):
                        return left, top, right, bottom
                    bottom += 1
            right += 1
        return None

    def shades(self):
        for left, top, right, bottom in self.boxes():
            inside = "".join(self.rows[row][left:right] for row in range(top, bottom))
            for sign in set(inside) & set(SHADES):
                (x, y), (x2, y2) = middle(left, top), middle(right, bottom)
                corner = f' rx="{WIDTH / 2:g}" ry="{HEIGHT / 2:g}"' if self.at(left, top) in ROUND else ""
                yield (f'<rect class="{SHADES[sign]}" x="{x:g}" y="{y:g}" width="{x2 - x:g}" height="{y2 - y:g}"'
                       f'{corner}/>')

    def lines(self):
        """Yield a path for each straight line from the middle of one cell to that of another, and each corner."""
        for row in range(len(self.rows)):
            for first, last in self.runs(self.columns, lambda at: self.arms(at, row), EAST, WEST):
                (x, y), (x2, _) = middle(first, row), middle(last, row)
                x += WIDTH / 2 * (self.at(first, row) in ROUND)
                x2 -= WIDTH / 2 * (self.at(last, row) in ROUND)
                yield f'<path d="M{x:g} {y:g}H{x2:g}"/>'
        for column in range(self.columns):
            for first, last in self.runs(len(self.rows), lambda at: self.arms(column, at), SOUTH, NORTH):
                (x, y), (_, y2) = middle(column, first), middle(column, last)
                y += HEIGHT / 2 * (self.at(column, first) in ROUND)
                y2 -= HEIGHT / 2 * (self.at(column, last) in ROUND)
                yield f'<path d="M{x:g} {y:g}V{y2:g}"/>'
        for row, text in enumerate(self.rows):
            for column, sign in enumerate(text):
                x, y = middle(column, row)
                if sign in ROUND:
                    arms = ARMS[sign]
                    side = WIDTH / 2 if arms & EAST else -WIDTH / 2
                    end = HEIGHT / 2 if arms & SOUTH else -HEIGHT / 2
                    yield f'<path d="M{x:g} {y + end:g}Q{x:g} {y:g} {x + side:g} {y:g}"/>'
                elif sign in "▶◀▲▼":
                    yield self.tip(sign, x, y)

    def tip(self, sign, x, y):
        """An arrow's tip touches the middle of the next cell, where the border of a box is."""
        dx, dy = {"▶": (WIDTH, 0), "◀": (-WIDTH, 0), "▲": (0, -HEIGHT), "▼": (0, HEIGHT)}[sign]
        x2, y2 = x + dx, y + dy
        ux, uy = (dx > 0) - (dx < 0), (dy > 0) - (dy < 0)
        bx, by = x2 - 9 * ux, y2 - 9 * uy
        shaft = f'<path d="M{x:g} {y:g}L{bx:g} {by:g}"/>' if dy else ""
        return (shaft + f'<path class="tip" d="M{x2:g} {y2:g}L{bx - 4 * uy:g} {by - 4 * ux:g}'
                f'L{bx + 4 * uy:g} {by + 4 * ux:g}Z"/>')

    def texts(self):
        """Yield the texts. Those of a box stand in its middle, whatever the font and however many they are."""
        boxes, inside = self.boxes(), {}
        for row, text in enumerate(self.rows):
            plain = "".join("\t" if sign in ARMS else " " if sign in SHADES else sign for sign in text)
            for match in re.finditer(r"\S(?: ?\S)*", plain):
                first, last = match.start(), match.end() - 1
                around = [box for box in boxes if box[0] < first and last < box[2] and box[1] < row < box[3]]
                if around:
                    inside.setdefault(min(around, key=lambda box: box[2] - box[0]), []).append((row, match[0]))
                else:
                    x, y = middle(first, row)
                    yield self.text(x - WIDTH / 2, y, match[0])
        for (left, top, right, bottom), texts in inside.items():
            x, y = middle((left + right) / 2, (top + bottom) / 2 - (texts[0][0] + texts[-1][0]) / 2)
            for row, text in texts:
                yield self.text(x, y + row * HEIGHT, text, ' text-anchor="middle"')

    def text(self, x, y, text, anchor=""):
        return f'<text x="{x:g}" y="{y + 5:g}"{anchor}>{escape(text)}</text>'

    def svg(self):
        width, height = self.columns * WIDTH + 2 * MARGIN, len(self.rows) * HEIGHT + 2 * MARGIN
        body = [*self.shades(), *self.lines(), *self.texts()]
        return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                          f'width="{width}" height="{height}">', f"<style>{STYLE}</style>", *body, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description="Draws the figures of the pages.")
    parser.add_argument("--check", action="store_true", help="fail if one would come out otherwise")
    check = parser.parse_args().check
    drawn = {source.with_suffix(".svg"): Figure(source.read_text()).svg() for source in FIGURES.glob("*.txt")}
    if check:
        there = {path: path.read_text() for path in FIGURES.glob("*.svg")}
        wrong = sorted(path.name for path in drawn.keys() | there.keys() if drawn.get(path) != there.get(path))
        if wrong:
            sys.exit(f"not what figures.py draws: {', '.join(wrong)}")
    else:
        for path, svg in drawn.items():
            path.write_text(svg)


if __name__ == "__main__":
    main()
