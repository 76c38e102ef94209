"""Adapters: how they are started, asked, and ended, whatever they do."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time

from .failures import Failure, Missing, blamed, during, fields, one_line

LONGEST_ANSWER = 64 << 20
MOST_WRITTEN = 1 << 30                      # bytes of a file beyond the longest one that is there
LONGEST_NUMBER = 40                         # digits; the format's have 19, and long ones take long to convert

# The shell limits itself, and becomes the adapter: nothing of it runs without limits.
LIMITED = 'ulimit -c 0; ulimit -f "$1"; [ "$2" = 0 ] || ulimit -v "$2"; shift 2; exec "$@"'


class Process:
    """A command at work in a folder. Its process group ends with it."""

    def __init__(self, command, folder, options):
        longest = max((os.lstat(entry).st_size for entry in os.scandir(folder)), default=0)
        limits = [str((longest + MOST_WRITTEN) // 512), str(options.memory * 1024)]
        self.seconds, self.deadline = options.seconds, time.monotonic() + options.seconds
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", LIMITED, "sh", *limits, *command], cwd=folder, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        self.output, self.errors, self.selector = bytearray(), b"", selectors.DefaultSelector()
        for stream in (self.process.stdout, self.process.stderr):
            self.selector.register(stream, selectors.EVENT_READ)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Kills it, and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.selector.close()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()

    def ask(self, do, **request):
        """Returns the answer to one request, an object."""
        with during(do):
            if self.output:
                raise Failure(f"{self._unasked()} was said before it was asked")
            with contextlib.suppress(OSError):          # it has ended; this shows when the answer is awaited
                self.process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            line = self._line()
            try:
                answer = json.loads(line, parse_int=as_number)
            except (ValueError, RecursionError):
                said = one_line(line[:100].decode(errors="replace"))
                raise Failure(f"the answer is no JSON: {said}") from None
            fields(answer)
            return answer

    def do(self, do, **request):
        """As `ask`, of what must not fail."""
        answer = self.ask(do, **request)
        if "error" in answer:
            raise Failure(f"{do}: fails: {blamed(answer)}")
        return answer

    def _line(self):
        searched = 0
        while (end := self.output.find(b"\n", searched)) < 0:
            searched = len(self.output)
            if not self._more():
                raise Failure(f"no answer: {self.how_it_ended()}")
        line = bytes(self.output[:end])
        del self.output[:end + 1]
        return line

    def _more(self):
        """Waits until something is said. Returns whether there may be more on its standard output."""
        if len(self.output) > LONGEST_ANSWER:
            raise Failure(f"an answer of more than {LONGEST_ANSWER >> 20} MiB")
        ready = self.selector.select(max(self.deadline - time.monotonic(), 0))
        if time.monotonic() > self.deadline:
            raise Failure(f"takes longer than {self.seconds:g} seconds{self._last_words()}")
        for key, _ in ready:
            data = os.read(key.fd, 1 << 16)
            if not data:
                self.selector.unregister(key.fileobj)
            if key.fileobj is self.process.stdout:
                self.output += data
            else:
                self.errors = (self.errors + data)[-4096:]
        return self.process.stdout in [key.fileobj for key in self.selector.get_map().values()]

    def end(self):
        """Ends its standard input, and waits until it has ended too. Returns exit code and output."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        while self.selector.get_map():
            self._more()
        try:
            return self.process.wait(max(self.deadline - time.monotonic(), 0)), bytes(self.output)
        except subprocess.TimeoutExpired:
            raise Failure(f"takes longer than {self.seconds:g} seconds to end") from None

    def end_cleanly(self):
        code, _ = self.end()
        if code:
            raise Failure(self.how_it_ended())
        if self.output:
            raise Failure(f"{self._unasked()} was said, and not asked")

    def how_it_ended(self):
        try:
            code = self.process.wait(min(max(self.deadline - time.monotonic(), 0), 1))
        except subprocess.TimeoutExpired:
            return "it has closed its standard output"
        with contextlib.suppress(Failure):              # what it said last may still be in the pipe
            while self.selector.get_map():
                self._more()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return f"it has ended with {how}{self._last_words()}"

    def _last_words(self):
        words = self.errors.decode(errors="replace").strip()
        return f": {one_line(words[-280:])}" if words else ""

    def _unasked(self):
        return one_line(self.output[:100].decode(errors="replace"))


def as_number(digits):
    if len(digits) > LONGEST_NUMBER:
        raise ValueError
    return int(digits)


class Adapter:
    """A command that keeps to the protocol, and what it says of itself."""

    def __init__(self, command, options):
        self.command, self.options = command, options
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder, self.begin(folder) as process:
            self.implementation, self.features = process.hello
            process.end_cleanly()

    @contextlib.contextmanager
    def begin(self, folder):
        with Process(self.command, folder, self.options) as process:
            process.hello = fields(process.do("hello", protocol=1), implementation=str, features=list)
            yield process

    def must_have(self, needs):
        lacking = [feature for feature in sorted(needs) if feature not in self.features]
        if lacking:
            raise Missing(" and ".join(lacking))
