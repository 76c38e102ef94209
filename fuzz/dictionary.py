#!/usr/bin/env python3
"""Makes the dictionaries of the fuzz targets from the constants of spec/ and, for NBD, of src/nbd/proto.rs.

    dictionary.py            writes dict/*.dict anew
    dictionary.py --check    fails if they say something else

dict/control.dict is written by hand: it holds pieces of JSON, no numbers.
"""

import argparse
import itertools
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "spec"))
import dumps  # noqa: E402: the tables of the pages are read there

# Structures of formats of others, and of everything else.
QED = ("QED header",)
OURS = tuple(name for name in dumps.STRUCTURES if name not in QED)


def numbers(field):
    """The values that a field's meaning lists: `1 image, 2 sidecar`, `bit 0: required`, or the one that it always has."""
    values = {int(value) for value in re.findall(r"(?:^|, )(\d+)(?= [a-z]|$)", field.meaning)}
    return sorted(values | {1 << int(bit) for bit in re.findall(r"bit (\d+):", field.meaning)})


def little(value, size):
    return (value % (1 << 8 * size)).to_bytes(size, "little")


def fields(names):
    """The markers and numbers that fields of the structures have."""
    for name in names:
        for field in dumps.STRUCTURES[name]:
            for digits in re.findall(r"`((?:[0-9a-f]{2} ?)+)`", field.meaning):
                yield f"{name}: {field.name}", bytes.fromhex(digits)
            if field.kind in ("u8", "u16", "u32", "u64"):
                for value in numbers(field):
                    yield f"{name}: {field.name}", little(value, field.size)


def heads():
    """What records start with: type, flags and the shortest length, required and not."""
    page = (dumps.HERE / "format.md").read_text()
    for number, name, length in re.findall(r"^\| (\d+) \| ([a-z ]+) \| (\d+)[^|]*\|", page, re.M):
        for flags in (0, 1):
            yield f"record: {name}", little(int(number), 2) + little(flags, 2) + little(int(length), 4)


def kinds():
    """Kinds of sections, each with the smallest and the largest granule."""
    page = (dumps.HERE / "format.md").read_text()
    table = re.search(r"^\| kind \| value \| one bit.*\n\|[-|]*\n((?:\|.*\n)*)", page, re.M)[1]
    for name, value in (dumps.cells(line)[:2] for line in table.splitlines()):
        for shift in (12, 24, 48):
            yield f"section: {name}", little(int(value), 2) + bytes([shift]) + bytes(5)


def limits():
    """The numbers of the table of limits, and those beside them."""
    page = (dumps.HERE / "format.md").read_text()
    table = page.split("| what | limit |")[1].split("\n\n")[0]
    values = {2 ** int(power) for power in re.findall(r"2\^(\d+)", table)}
    values |= {int(value) for value in re.findall(r"(?<![\^\d])\d{2,}", table)}
    for value in sorted(values):
        for near in (value - 1, value, value + 1):
            yield f"limit {value}", little(near, 8)
    # Pieces of the target `open` say where they lie in sectors.
    for place in (0, 65536, 131072, 196608):
        yield f"place {place}", little(place // 512, 4)
        yield f"place {place}", little(place, 8)
    for value in (2**31, 2**32, 2**63, 2**64):
        yield f"edge {value}", little(value - 1, 8)
        yield f"edge {value}", little(value, 8)


def seals():
    """The ends of sealed sectors, before their checksum."""
    marker = next(bytes for name, bytes in fields(("Sealed sector",)) if name.endswith(": marker"))
    for index in (0, 1, 7, 8):
        yield f"sector {index}", little(index, 8) + marker


def protocol():
    """The constants of NBD by their names, each with its bytes, big endian."""
    source = (HERE.parent / "src/nbd/proto.rs").read_text()
    for name, bits, value in re.findall(r"^pub const (\w+): u(\d+) = ([^;]+);", source, re.M):
        number = eval(re.sub(r"(?<=[0-9a-f])_(?=[0-9a-f])", "", value), {})  # noqa: S307: `1 << 31`, `(1 << 15) + 1`
        yield name, number.to_bytes(int(bits) // 8, "big")


def client():
    """What clients say: options, and requests up to their cookie."""
    known, zero = dict(protocol()), bytes(4)
    options = [name for name in known if name.startswith("NBD_OPT_")]
    commands = [name for name in known if re.match(r"NBD_CMD_(?!FLAG)", name)]
    flags = [name for name in known if name.startswith("NBD_CMD_FLAG_")]
    yield "IHAVEOPT", known["IHAVEOPT"]
    for name in options:
        yield name, known["IHAVEOPT"] + known[name] + zero
    for name in ("disk", "locked", "base:", "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"):
        yield name, len(name).to_bytes(4, "big") + name.encode()
    for name in commands:
        yield name, known["NBD_REQUEST_MAGIC"] + bytes(2) + known[name]
    for name in flags:
        yield name, known["NBD_REQUEST_MAGIC"] + known[name]
    # The disk of the target has 96 KiB; 32 MiB is the longest request.
    for number in (96 << 10, 48 << 10):
        yield f"offset {number}", number.to_bytes(8, "big")
    for number in (1 << 10, 4 << 10, 64 << 10, (64 << 10) + 1, 96 << 10, 32 << 20, (32 << 20) + 1, 2**32 - 1):
        yield f"length {number}", number.to_bytes(4, "big")
    yield "offset 2^64 - 1", b"\xff" * 8


def server():
    """What servers say: their greeting, replies to options, and replies up to their cookie."""
    known = dict(protocol())
    for flags in (0, 1, 3):
        yield f"greeting {flags}", known["NBDMAGIC"] + known["IHAVEOPT"] + flags.to_bytes(2, "big")
    options = ("NBD_OPT_STRUCTURED_REPLY", "NBD_OPT_SET_META_CONTEXT", "NBD_OPT_GO", "NBD_OPT_STARTTLS")
    replies = [name for name in known if name.startswith("NBD_REP_") and name not in ("NBD_REP_MAGIC", "NBD_REP_FLAG_ERROR")]
    for option, reply in itertools.product(options, replies):
        yield f"{option} {reply}", known["NBD_REP_MAGIC"] + known[option] + known[reply]
    for name in known:
        if name.startswith("NBD_INFO_"):
            yield name, known[name]
        if name.startswith("NBD_REPLY_TYPE_"):
            for flags in ("NBD_REPLY_FLAG_DONE", None):
                flag = known[flags] if flags else bytes(2)
                yield name, known["NBD_STRUCTURED_REPLY_MAGIC"] + flag + known[name]
    for error in (0, 5):
        yield f"simple reply {error}", known["NBD_SIMPLE_REPLY_MAGIC"] + error.to_bytes(4, "big")
    for length in (0, 1, 12, 19, 2**32 - 1):
        yield f"length {length}", length.to_bytes(4, "big")
    yield "base:allocation", b"\0\0\0\x05base:allocation"


def ours():
    return itertools.chain(fields(OURS), heads(), kinds(), limits(), seals())


DICTIONARIES = {
    "open": ("spec/", ours),
    "header": ("spec/", ours),
    "foreign": ("spec/", lambda: itertools.chain(fields(QED), limits())),
    "nbd_server": ("src/nbd/proto.rs", client),
    "nbd_client": ("src/nbd/proto.rs", server),
}


def text(source, entries):
    """A dictionary in libFuzzer's words. What was said before is not said again."""
    lines, seen, last = [f"# Made by fuzz/dictionary.py from the constants of {source}: do not edit."], set(), None
    for name, content in entries:
        if content in seen:
            continue
        seen.add(content)
        if name != last:
            lines.append(f"# {name}")
        last = name
        lines.append('"' + "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\x{byte:02x}" for byte in content) + '"')
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if the dictionaries say something else")
    check, stale = parser.parse_args().check, []
    for name, (source, entries) in DICTIONARIES.items():
        path, made = HERE / "dict" / f"{name}.dict", text(source, entries())
        if check and (not path.exists() or path.read_text() != made):
            stale.append(path.name)
        elif not check:
            path.write_text(made)
    if stale:
        sys.exit(f"run fuzz/dictionary.py: {', '.join(stale)}")


main()
