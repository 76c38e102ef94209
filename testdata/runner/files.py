"""Files and disks, most of which are zeros."""

import contextlib
import os

from restore import lines_of

from .failures import Failure, one_line

PAGE = 4096
CHUNK = 1 << 20


class Sparse:
    """Bytes of which most are zero: their number, and the pages that have others."""

    def __init__(self, length, pieces=()):
        self.length, self.pages = length, {}
        for offset, data in pieces:
            self.put(offset, data)

    def put(self, offset, data):
        while data:
            number, place = divmod(offset, PAGE)
            part, data = data[:PAGE - place], data[PAGE - place:]
            if part.count(0) < len(part) or number in self.pages:
                self.pages.setdefault(number, bytearray(PAGE))[place:place + len(part)] = part
            offset += len(part)

    def __eq__(self, other):
        return isinstance(other, Sparse) and (self.length, self.pages) == (other.length, other.pages)

    @classmethod
    def stated(cls, stated, folder):
        """The content of a file or a disk, as a vector in `folder` states it."""
        length = stated["length"] if "length" in stated else stated["size"]
        return cls(length, lines_of(folder / stated["dump"]) if "dump" in stated else ())

    @classmethod
    def of_file(cls, path):
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0) as file:
            return cls(file.seek(0, os.SEEK_END), cls._data(file))

    @staticmethod
    def _data(file):
        """Yields what is no hole: a file of 2^60 bytes cannot be read otherwise."""
        end = 0
        with contextlib.suppress(OSError):              # ENXIO: behind the last data there is but a hole
            while True:
                offset = file.seek(end, os.SEEK_DATA)
                end = file.seek(offset, os.SEEK_HOLE)
                file.seek(offset)
                while offset < end and (data := file.read(min(end - offset, CHUNK))):
                    yield offset, data
                    offset += len(data)

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
        with contextlib.suppress(OSError):
            return Sparse.of_file(entry.path) if entry.is_file(follow_symlinks=False) else None
    with os.scandir(folder) as entries:
        return {entry.name: content(entry) for entry in entries}


def unchanged(before, folder, only_old=False):
    """Fails if a file of a folder has changed or is gone; without `only_old` also if there is a new one."""
    after = contents(folder)
    changed = [one_line(name) for name in sorted(before.keys() | (set() if only_old else after.keys()))
               if name not in before or before[name] != after.get(name)]
    if changed:
        raise Failure(f"writes, and must not: {', '.join(changed)}")
