"""Standard input, output and error of a command, even if the shell closed some."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any

from plumb.core.errors import OutputError
from plumb.core.printable import ERRORS


def open_missing(descriptors: tuple[int, ...]) -> None:
    """Open the null device under each of these descriptors that is closed.

    Otherwise the next opened file or pipe would get the number, and printed text would be written there.
    """
    for descriptor in filter(_is_closed, descriptors):
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
        os.set_inheritable(descriptor, True)
    if sys.stdout is None:
        sys.stdout = _writer(1)
    if sys.stderr is None:
        sys.stderr = _writer(2)


def print_what_can_be_printed() -> None:
    """Print ASCII characters in place of those that the output's encoding lacks, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with contextlib.suppress(OSError, ValueError):
                reconfigure(errors=ERRORS)


def name_write_errors() -> None:
    """Replace standard output by a stream that raises OutputError if it can't be written.

    If standard error can't be written, its text is dropped, because no other place is left to say so. A broken pipe
    raises BrokenPipeError in both, as usual.
    """
    sys.stdout = _guarded(sys.stdout, drops=False)
    sys.stderr = _guarded(sys.stderr, drops=True)


def finish_output() -> None:
    """Write what standard output still buffers. Raises OutputError and BrokenPipeError."""
    sys.stdout.flush()


def discard_output() -> None:
    """Send the rest of standard output to the null device, so that Python's last flush does not fail again."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _GuardedFile(io.FileIO):
    """Descriptor of a standard stream: a write error raises OutputError, or drops the data if `drops`."""

    def __init__(self, descriptor: int, drops: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._drops = drops

    def write(self, data: Any) -> int:
        """Write as `FileIO.write` does."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._drops:
                return len(memoryview(data).cast("B"))
            raise OutputError(error) from None


def _guarded(stream: Any, drops: bool) -> Any:
    """Return a stream like `stream` on a guarded file; `stream` itself if it has no descriptor of its own."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        stream.flush()
        raw = _GuardedFile(stream.fileno(), drops)
    except (OSError, ValueError):
        return stream
    is_unbuffered = isinstance(stream.buffer, io.RawIOBase)
    made = io.TextIOWrapper(
        raw if is_unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    made.mode = "w"  # type: ignore[misc]  # as Python sets it on its own
    return made


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def _writer(descriptor: int) -> Any:
    return open(descriptor, "w", encoding="utf-8", errors=ERRORS, closefd=False)
