"""How a case ends that does not pass, and looks at answers, which may be anything."""

import contextlib
import json


class Failure(Exception):
    """Why a case fails, in one line."""


class Missing(Exception):
    """Why a case is skipped: features that an adapter lacks, or `host` if this host cannot make the files."""


def one_line(thing, most=300):
    """What an adapter says goes to terminals and into XML."""
    text = (thing if isinstance(thing, str) else json.dumps(thing))[:most + 1]
    text = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
    return text if len(text) <= most else text[:most - 4] + " ..."


def same(what, found, expected):
    if found != expected:
        found, expected = (one_line(json.dumps(thing)) for thing in (found, expected))
        raise Failure(f"{what}: {found} instead of {expected}")


def same_bytes(found, expected, offset):
    """Data of vectors says where it belongs: a wrong byte, with what follows, tells where it came from."""
    if found == expected:
        return
    at = next((at for at, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]), 0)
    def text(data):
        return "".join(chr(byte) if 32 < byte < 127 else "." for byte in data[at:at + 16])
    raise Failure(f"byte {offset + at}: {found[at]:#04x} instead of {expected[at]:#04x} "
                  f"({text(found)} instead of {text(expected)})")


def fields(answer, **kinds):
    """Returns the fields of those names and types."""
    if not isinstance(answer, dict):
        raise Failure(f"{one_line(answer)} is no object")
    for name, kind in kinds.items():
        if type(answer.get(name)) is not kind:
            raise Failure(f"{name} is no {kind.__name__} in {one_line(answer)}")
    return [answer[name] for name in kinds]


def blamed(answer):
    """What an answer says of why a request fails."""
    words = (answer.get(name) for name in ("result", "rule", "error"))
    return " ".join(one_line(word) for word in words if word)


@contextlib.contextmanager
def during(what):
    try:
        yield
    except Failure as failure:
        raise Failure(f"{what}: {failure}") from None
