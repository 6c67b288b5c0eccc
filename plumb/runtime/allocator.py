"""Large blocks of memory that are used again instead of given back to the kernel, with glibc's allocator.

glibc asks the kernel for each block above a threshold, and returns it as soon as it is free. The next block is then
made of fresh pages, and each must be mapped and cleared when it is first touched, which takes several times as long as
writing to it. With raised thresholds, a block that was freed stays with the process.

In the main process that concerns the batches that it collates, or finishes, itself. What a worker collates goes to
shared memory, which glibc has no part in (see `buffers.py`): there it concerns only what is made on the way to a
sample, if it takes more than 128 KiB. In either, the freed memory counts as the process's own for as long as blocks are
used again.

Torch asks for blocks at aligned addresses. glibc then cuts off what lies before and behind, and these small pieces
don't become part of the block again while a thread's cache of freed pieces has room for them. The freed block is too
small for the next one then. So that cache is filled first.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
REUSING = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}
USUAL = {M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20, M_TOP_PAD: 128 * 2**10}
"""What glibc's thresholds become by themselves, at the most, once blocks of some size have been freed. They start
lower, but whoever sets one keeps glibc from raising it ever after."""

LOWEST_THRESHOLD, THRESHOLD_BYTES, USUAL_TOP_PAD = 128 * 2**10, 4096, 128 * 2**10

KEPT_BLOCKS = 4
CACHED_PIECES = 7
PIECE_BYTES = range(24, 168, 16)
PROBE_BYTES = 256 * 2**20
PROBE_REPETITIONS = 5
PROBE_SECONDS = 20.0


def available() -> bool:
    """Whether this process allocates with glibc."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def kept_bytes(block_bytes: int) -> int:
    """What a process that uses blocks of this size, one at a time, may come to hold for them."""
    return KEPT_BLOCKS * block_bytes


def reuse_for_good() -> None:
    """Lets this process use its blocks again for as long as it runs. Does nothing without glibc."""
    if available():
        _start_reusing()


class Reuse:
    """Blocks are used again in this process while there is an open `Reuse`. With the last, what is free goes back to
    the kernel, and glibc's own ways return.

    It is closed by `close`, or when nobody holds it any more. Does nothing without glibc.
    """

    def __init__(self) -> None:
        _count(+1)
        self.close = weakref.finalize(self, _count, -1)
        self.close.atexit = False


@contextmanager
def reusing(wanted: bool) -> Iterator[None]:
    """Uses blocks again inside, if that is `wanted`."""
    reuse = Reuse() if wanted else None
    try:
        yield
    finally:
        if reuse is not None:
            reuse.close()


@contextmanager
def ways_kept() -> Iterator[None]:
    """Returns the process to its own thresholds after each reuse inside: what is compared with reuse is the user's own
    process, with all that it pays for fresh memory. In the end they are the usual ones.
    """
    global _keepers, _own
    with _lock:
        _keepers += 1
    try:
        yield
    finally:
        with _lock:
            _keepers -= 1
            if _own is not None and not _keepers:
                _own = None
                if not _open:
                    _set(USUAL)


_lock = threading.Lock()
_open = _keepers = 0
_own: dict[int, int] | None = None


def _count(change: int) -> None:
    global _open, _own
    with _lock:
        before, _open = _open, _open + change
        if not available() or bool(before) == bool(_open):
            return
        if _open:
            asked: list[int] = []
            if _keepers and _own is None:
                _own, asked = _thresholds()
            _start_reusing()
            for block in asked:
                ctypes.CDLL(None).free(ctypes.c_void_p(block))
        else:
            _set(_own or USUAL)
            give_back_what_is_free()


def give_back_what_is_free() -> None:
    """Gives freed memory of this process back to the kernel. Does nothing without glibc."""
    if available():
        ctypes.CDLL(None).malloc_trim(0)


class _Mallinfo(ctypes.Structure):
    _fields_ = (
        ("arena", ctypes.c_int),
        ("ordblks", ctypes.c_int),
        ("smblks", ctypes.c_int),
        ("hblks", ctypes.c_int),
        ("rest", ctypes.c_int * 6),
    )


def _thresholds() -> tuple[dict[int, int], list[int]]:
    """The thresholds of this process, which glibc does not tell, and the blocks that were asked for to find them.

    To free those would raise the thresholds, unless they have been set meanwhile. glibc keeps the one for trimming at
    twice the one for blocks of their own (malloc/malloc.c, `__libc_free`).
    """
    library = _library()
    library.mallinfo.restype = _Mallinfo
    lowest, highest = LOWEST_THRESHOLD, USUAL[M_MMAP_THRESHOLD]
    asked = _taking_what_is_free(library, highest)
    while highest - lowest > THRESHOLD_BYTES:
        size = (lowest + highest) // 2
        before = library.mallinfo().hblks
        block = library.malloc(size)
        if library.mallinfo().hblks > before:
            asked.append(block)
            highest = size
        else:
            library.free(block)
            lowest = size
    return {M_MMAP_THRESHOLD: lowest, M_TRIM_THRESHOLD: 2 * lowest, M_TOP_PAD: USUAL_TOP_PAD}, asked


def _taking_what_is_free(library: ctypes.CDLL, largest: int) -> list[int]:
    """Blocks that take up all free ones of the heap: what is asked for next, glibc gets from the kernel."""
    taken: list[int] = []
    while largest >= LOWEST_THRESHOLD:
        before = library.mallinfo()
        taken.append(library.malloc(largest))
        after = library.mallinfo()
        if (after.arena, after.hblks) != (before.arena, before.hblks):
            largest //= 2
    return taken


def _set(thresholds: dict[int, int]) -> None:
    library = ctypes.CDLL(None)
    for parameter, value in thresholds.items():
        library.mallopt(parameter, value)


def _start_reusing() -> None:
    _set(REUSING)
    library = _library()
    for size in PIECE_BYTES:
        pieces = [library.malloc(size) for _ in range(CACHED_PIECES)]
        for piece in pieces:
            library.free(piece)


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    return library


def saved_seconds(block_bytes: int) -> float:
    """By how much sooner a block of this size is allocated and filled when it is used again than when it is fresh.

    Blocks of up to 32 MiB glibc may use again by itself, or not: that hangs on all that a process has freed before.
    Measured in a process of its own, in a moment; 0 where that can't be done.
    """
    if not available() or not block_bytes:
        return 0.0
    probed_bytes = min(block_bytes, PROBE_BYTES)
    command = [sys.executable, "-I", "-S", __file__, str(probed_bytes)]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=PROBE_SECONDS)
        return float(done.stdout) * block_bytes / probed_bytes
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0.0


def _measured_difference(block_bytes: int) -> float:
    _set({M_MMAP_THRESHOLD: LOWEST_THRESHOLD})
    fresh = _seconds_to_fill(block_bytes)
    reuse_for_good()
    return max(0.0, fresh - _seconds_to_fill(block_bytes))


def _seconds_to_fill(block_bytes: int) -> float:
    """The median of the seconds that a block takes, after one that isn't counted."""
    library = _library()
    taken = []
    for _ in range(PROBE_REPETITIONS + 1):
        start = time.perf_counter()
        block = library.malloc(block_bytes)
        ctypes.memset(block, 1, block_bytes)
        library.free(block)
        taken.append(time.perf_counter() - start)
    return sorted(taken[1:])[PROBE_REPETITIONS // 2]


if __name__ == "__main__":
    os.write(1, str(_measured_difference(int(sys.argv[1]))).encode())
