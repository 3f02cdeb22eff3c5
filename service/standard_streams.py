"""Standard input, output and error of a command, whatever state its caller left them in.

A stream that was closed is opened on the null device: otherwise the next socket or file would get
its number, and be written to as if it were the stream. Output that nobody can take does not
interrupt a command: a reader that has read enough (`| head -1`) is no failure, and a full disk is
told once the command has done what it was asked for.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: the exit status of a command that has succeeded but whose output could not be written
UNWRITTEN = 5


class _Output(io.RawIOBase):
    """A file descriptor for output; `lost` is the error after which all output is dropped."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.lost: OSError | None = None

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        size = memoryview(data).nbytes
        while self.lost is None:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # a pipe whose other users do not want to wait
                select.select([], [self._descriptor], [])
            except OSError as exc:
                self.lost = exc
        return size


class StandardStreams:
    """Replaces the process's standard output and error, until `finish` is called."""

    def __init__(self) -> None:
        for descriptor in range(3):
            _open(descriptor)
        self._output, self._errors = _Output(1), _Output(2)
        sys.stdout = _text(self._output, sys.stdout)
        sys.stderr = _text(self._errors, sys.stderr)

    def finish(self, status: int) -> int:
        """Write what is left, and return the exit status of a command that ended with `status`."""
        sys.stdout.flush()
        lost = self._output.lost
        if lost is not None and lost.errno != errno.EPIPE:
            sys.stderr.write(f"Error: standard output cannot be written: {lost.strerror}\n")
            status = status or UNWRITTEN
        sys.stderr.flush()
        return status


def _open(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:  # it is closed, so it is the lowest free number, which `open` returns
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _text(output: _Output, before: TextIO | None) -> io.TextIOWrapper:
    """Return a text stream to `output` like the one that the process had before, if any."""
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=before.encoding if before is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=before is not None and bool(before.line_buffering),
    )
