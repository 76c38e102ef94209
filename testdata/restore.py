#!/usr/bin/env python3
"""restore.py DIRECTORY [NAME...]: makes the files of the vectors below DIRECTORY, one folder a vector."""
import json, pathlib, sys

here, out, names = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[1]), sys.argv[2:]


def restore(path, length, dump):
    with open(path, "wb") as file:
        for line in dump.read_text().splitlines() if dump else []:
            offset, digits = line.split(": ")
            file.seek(int(offset, 16))
            file.write(bytes.fromhex(digits))
        file.truncate(length)


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
