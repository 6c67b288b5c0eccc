"""What processes hold for themselves, and what a trial takes."""

import multiprocessing
import os
import subprocess
import sys
import time

import numpy
import pytest

from plumb.host.process_memory import MemoryGrowth, MemoryTaken, cpu_seconds, pages, reference_count_bytes, script_bytes

MIB = 2**20
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="only Linux tells")


def _hold(mebibytes, touch, connection):
    block = bytearray(os.urandom(1) * (mebibytes * MIB)) if not touch else None
    if touch:
        for start in range(0, len(BLOCK), 4096):
            BLOCK[start] ^= 1
    connection.send(block is None)
    connection.recv()


BLOCK = bytearray(b"x" * (64 * MIB))


@pytest.fixture
def child():
    started = []

    def start(mebibytes, touch=False):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_hold, args=(mebibytes, touch, theirs))
        process.start()
        ours.recv()
        started.append((process, ours))
        return process.pid

    yield start
    for process, ours in started:
        ours.send(None)
        process.join()


def _burn(connection):
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    connection.send(time.process_time())
    connection.recv()


def test_the_cpu_seconds_of_another_process_are_those_that_it_counts_itself():
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_burn, args=(theirs,))
    process.start()
    counted = ours.recv()
    assert counted - 0.01 <= cpu_seconds([process.pid]) <= counted + 0.02
    assert cpu_seconds([process.pid, process.pid]) >= 2 * counted - 0.02
    ours.send(None)
    process.join()
    assert cpu_seconds([process.pid]) == 0.0


def test_a_forked_child_shares_its_parent_s_pages_until_it_writes_to_them(child):
    reader, writer = pages(child(0)), pages(child(0, touch=True))
    assert writer.private_bytes - reader.private_bytes > 60 * MIB
    assert reader.shared_bytes - writer.shared_bytes > 60 * MIB


@pytest.mark.slow
@pytest.mark.quiet  # shared memory is everybody's
def test_what_children_hold_is_taken_and_what_they_share_is_not(child):
    taken = MemoryTaken()
    child(0)
    shared_only = taken.bytes()
    child(100)
    assert shared_only < 40 * MIB
    assert 100 * MIB <= taken.bytes() - shared_only < 140 * MIB


@pytest.mark.slow
@pytest.mark.quiet  # shared memory is everybody's
def test_shared_memory_is_taken_though_nobody_maps_it():
    taken = MemoryTaken()
    with open("/dev/shm/plumb-test-taken", "wb") as file:
        os.unlink(file.name)
        file.write(bytes(8 * MIB))
        file.flush()
        assert taken.bytes() > 7.5 * MIB


def test_the_script_counts_with_all_that_it_started():
    before = script_bytes()
    hold = "x = bytearray(b'x' * (1 << 27)); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        after = script_bytes()
        other.communicate(b"\n")
    assert after - before > 120 * MIB


class Named:
    def __init__(self, count):
        self.names = [f"/some/where/{number:08d}.jpg" for number in range(count)]
        self.labels = {name: (number,) for number, name in enumerate(self.names)}
        self.values = numpy.zeros(10**7)
        self.itself = self


def test_the_counts_of_a_long_list_of_names_are_told_from_a_part_of_it():
    whole = sum(sys.getsizeof(f"/some/where/{number:08d}.jpg") for number in range(300_000))
    assert whole < reference_count_bytes(Named(300_000)) < 6 * whole
    assert reference_count_bytes(Named(0)) < 2**20, "an array's values have no counts, and code is not the dataset's"


def test_a_process_that_is_gone_has_none():
    assert pages(2**22 + 1).private_bytes == 0.0


def test_a_process_grows_by_what_it_holds_for_a_moment_only():
    grown = MemoryGrowth()
    assert grown.bytes() < 8 * MIB
    numpy.ones(64 * MIB, numpy.uint8)
    assert 60 * MIB < grown.bytes() < 80 * MIB
    assert MemoryGrowth().bytes() < 8 * MIB


def test_pages_of_files_are_no_growth(tmp_path):
    (tmp_path / "large").write_bytes(b"x" * (64 * MIB))
    grown = MemoryGrowth()
    mapped = numpy.memmap(tmp_path / "large", numpy.uint8, "r")
    assert mapped.sum() > 0
    assert grown.bytes() < 16 * MIB
