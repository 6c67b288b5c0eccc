"""Reuse of large memory blocks by glibc's allocator, instead of returning them to the kernel.

glibc requests each block above a threshold from the kernel, and returns it as soon as it is free. The next block then
consists of fresh pages, each of which must be mapped and cleared at its first access, which takes several times as long
as writing to it. With raised thresholds, a freed block stays with the process.

In the main process this concerns the batches that it collates, or finishes, itself. A worker collates into shared
memory, which glibc doesn't manage (see `runtime/shared_buffers.py`): in workers it concerns only intermediate values of
a sample of more than 128 KiB. In both, freed memory counts as the process's own as long as blocks are reused.

Torch requests blocks at aligned addresses. glibc then cuts off the parts before and after, and these small pieces don't
become part of the block again while a thread's cache of freed pieces has room for them. Then the freed block is too
small for the next one. So that cache is filled first.
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
    """Return whether this process allocates with glibc."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def kept_bytes(block_bytes: int) -> int:
    """Return the memory that a process may retain if it uses blocks of this size one at a time."""
    return KEPT_BLOCKS * block_bytes


def reuse_until_exit() -> None:
    """Reuse blocks in this process until it ends; do nothing without glibc."""
    if available():
        _start_reusing()


class Reuse:
    """Handle that makes this process reuse blocks while at least one is open.

    When the last one is closed, free memory is returned to the kernel, and glibc's own thresholds are restored. `close`
    closes it, and so does the end of its last reference. Does nothing without glibc.
    """

    def __init__(self) -> None:
        _count(+1)
        self.close = weakref.finalize(self, _count, -1)
        self.close.atexit = False


@contextmanager
def malloc_reuse(wanted: bool) -> Iterator[None]:
    """Reuse blocks in the context if `wanted`."""
    reuse = Reuse() if wanted else None
    try:
        yield
    finally:
        if reuse is not None:
            reuse.close()


@contextmanager
def baseline_malloc() -> Iterator[None]:
    """Restore the process's own thresholds after each reuse in the context, and the usual ones at its end.

    Measurements without reuse then show the user's own process, with its full cost of fresh memory.
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
            trim_free_memory()


def trim_free_memory() -> None:
    """Return freed memory of this process to the kernel; do nothing without glibc."""
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
    """Measure the thresholds of this process, which glibc can't report; also return the blocks allocated for that.

    Freeing these would raise the thresholds, unless they have been set meanwhile. glibc keeps the threshold for
    trimming at twice the one for separate blocks (malloc/malloc.c, `__libc_free`).
    """
    library = _library()
    library.mallinfo.restype = _Mallinfo
    lowest, highest = LOWEST_THRESHOLD, USUAL[M_MMAP_THRESHOLD]
    asked = _allocate_free_memory(library, highest)
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


def _allocate_free_memory(library: ctypes.CDLL, largest: int) -> list[int]:
    """Allocate all free blocks of the heap, so that glibc requests the next one from the kernel; return them."""
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
    """Return how much faster a reused block of this size is allocated and filled than a fresh one, in seconds.

    glibc itself may reuse blocks of up to 32 MiB or not, depending on all earlier frees of the process. So it is
    measured in a short process of its own; 0 if that fails.
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
    reuse_until_exit()
    return max(0.0, fresh - _seconds_to_fill(block_bytes))


def _seconds_to_fill(block_bytes: int) -> float:
    """Return the median seconds to allocate, fill and free a block, after one uncounted repetition."""
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
