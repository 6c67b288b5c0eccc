"""Blocks are used again while that is asked for, and no longer. Seen in page faults of processes of their own."""

import gc
import pickle
import subprocess
import sys

import pytest
from torch.utils.data import Dataset

from plumb.core.config import Config
from plumb.host.malloc import available, kept_bytes, saved_seconds
from plumb.runtime.iterator_setup import WorkerInit
from plumb.runtime.loader import Loader

pytestmark = pytest.mark.skipif(not available(), reason="needs glibc")

MEGABYTES = 48
COUNTING = f"""
import ctypes, gc, pickle, resource
from plumb.host.malloc import Reuse, reuse_until_exit

library, block = ctypes.CDLL(None), ctypes.c_void_p()

def faults(times=5, megabytes={MEGABYTES}):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        # as torch does
        library.posix_memalign(ctypes.byref(block), ctypes.c_size_t(64), ctypes.c_size_t(megabytes * 2**20))
        ctypes.memset(block.value, 1, megabytes * 2**20)
        library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 2**20

faults()
"""


def counted(code):
    done = subprocess.run([sys.executable, "-c", COUNTING + code], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_touched_memory_is_used_again_until_the_last_holder_closes():
    fresh, again, still, first = counted(
        "print(faults()); one, two = Reuse(), Reuse(); faults(10); print(faults())\n"
        "one.close(); one.close(); print(faults()); two.close(); print(faults(1))"
    )
    assert again < fresh / 10
    # A kernel that takes idle pages back makes some faults meanwhile.
    assert still < fresh / 3
    assert first > fresh / 10


def test_what_is_kept_is_bounded_and_given_back():
    before, during, after = counted(
        "print(resident()); held = Reuse(); faults(20); print(resident()); held.close(); print(resident())"
    )
    assert during - before <= kept_bytes(MEGABYTES) + 8
    assert after <= before + 8


def test_a_holder_that_is_gone_is_closed():
    reusing, first = counted("held = Reuse(); faults(10); print(faults()); del held; gc.collect(); print(faults(1))")
    assert reusing < first / 10


def test_a_worker_keeps_its_blocks_if_its_configuration_says_so():
    init = pickle.dumps(WorkerInit(1, True, None))
    fresh, reusing = counted(f"print(faults()); pickle.loads({init!r})(0); faults(10); print(faults())")
    assert reusing < fresh / 10


class Frozen(Dataset):
    """How many of the objects that this process holds are never looked at by the collection of garbage."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return gc.get_freeze_count()


def test_a_worker_looks_for_no_garbage_in_what_it_has_inherited():
    (frozen,) = Loader(Frozen(), config=Config(1, 2, allocator_reuse=True))
    assert frozen.item() >= len(gc.get_objects()) / 2
    assert gc.get_freeze_count() == 0


def test_smaller_blocks_are_used_again_afterwards_as_they_were_before():
    before, after = counted("faults(9, 8); print(faults(5, 8)); Reuse().close(); faults(9, 8); print(faults(5, 8))")
    assert after <= before + 200


SAMPLES = """
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def of_a_batch(times=5, samples=24, size=600 * 1024):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        blocks = [library.malloc(size) for _ in range(samples)]
        for block in blocks:
            ctypes.memset(block, 1, size)
        for block in blocks:
            library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""


@pytest.mark.parametrize("kilobytes", [600, 3000])
def test_what_is_compared_with_reuse_pays_for_fresh_memory_as_before(kilobytes):
    own, reusing, again, later = counted(
        f"{SAMPLES}from plumb.host.malloc import baseline_malloc, malloc_reuse\nsize = {kilobytes} * 1024\n"
        "of_a_batch(size=size); print(of_a_batch(size=size))\n"
        "with baseline_malloc():\n"
        "    with malloc_reuse(True): of_a_batch(size=size); print(of_a_batch(size=size))\n"
        "    with malloc_reuse(True): pass\n"
        "    of_a_batch(size=size); print(of_a_batch(size=size))\n"
        "of_a_batch(size=size); print(of_a_batch(size=size))"
    )
    assert reusing < own / 10
    assert own / 2 < again < 2 * own
    assert later <= own, "in the end, the process has the usual ways"


def test_the_probe_tells_what_is_saved_and_leaves_this_process_alone():
    saved_ms, fresh, again = counted(
        "from plumb.host.malloc import saved_seconds; print(int(saved_seconds(2**26) * 1e6)); "
        "print(faults()); print(faults())"
    )
    assert saved_ms > 0
    assert again > fresh / 2
    assert saved_seconds(2**22) >= 0
