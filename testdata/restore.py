#!/usr/bin/env python3
"""restore.py DIRECTORY [NAME...]: makes the files of the vectors below DIRECTORY, one folder a vector."""
import json, pathlib, sys


def lines_of(dump):
    """Yields offset and bytes of each line of a dump. What no line names is zero."""
    for line in dump.read_text().splitlines():
        offset, digits = line.split(": ")
        yield int(offset, 16), bytes.fromhex(digits)


def restore(path, length, dump):
    with open(path, "wb") as file:
        for offset, data in lines_of(dump) if dump else ():
            file.seek(offset)
            file.write(data)
        file.truncate(length)


def main(here, out, names):
    for entry in json.loads((here / "manifest.json").read_text())["vectors"]:
        if names and entry["name"] not in names:
            continue
        source = here / entry["path"]
        vector = json.loads(source.read_text())
        folder = out / vector["name"]
        folder.mkdir(parents=True, exist_ok=True)
        for file in vector["files"]:
            dump = source.parent / file["dump"] if "dump" in file else None
            try:
                restore(folder / file["name"], file["length"], dump)
            except OSError as error:  # Few file systems hold files of 2^60 bytes; tmpfs does.
                print(f"{vector['name']}/{file['name']}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(pathlib.Path(__file__).parent, pathlib.Path(sys.argv[1]), sys.argv[2:])
