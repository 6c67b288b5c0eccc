"""A store in memory leaves other loaders, and other programs, the room that they need now."""

import os
import subprocess
import sys

import pytest
from store_parts import MIB, spec_in

from plumb.core.errors import StoreError
from plumb.host.headroom import Headroom, HeadroomReader
from plumb.runtime.store import room
from plumb.runtime.store.codec import encode
from plumb.runtime.store.room import Growth, memory_budget
from plumb.runtime.store.store import Store

GIB = 2**30
FILL = """
import os, sys
from pathlib import Path
from plumb.runtime.store.store import Store, StoreSpec, key_of
from plumb.runtime.store.codec import encode
from plumb.runtime.store.store_folder import StoreError, StoreFacts, StoreUse, memory_root
from plumb.runtime.store.room import memory_budget

def free():
    status = os.statvfs("/dev/shm")
    return status.f_bavail * status.f_frsize // 2**20

try:
    folder = memory_root() / "f"
    use = StoreUse(folder, StoreFacts("Images", "load", "memory", 0))
    stores = [Store(StoreSpec(str(folder), size, "memory", "f")) for size in (memory_budget(2**28), 2**28)]
    for number, store in enumerate(stores):
        for index in range(200):
            store.put(b"%d-%d" % (number, index), encode(bytes(2**20)))
        print(number, free(), store.is_full, store.is_off, store.reason)
        store.close()
except StoreError as error:
    print(error)
"""


def in_shm_of(size: str) -> list[str]:
    shell = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", shell], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace for us here")
    command = ["unshare", "-m", "sh", "-c", f'{shell} && exec "$@"', "sh", sys.executable, "-c", FILL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_a_quarter_of_a_small_shm_stays_free_though_the_plan_s_budget_is_larger():
    by_budget, by_growth = (line.split(maxsplit=4) for line in in_shm_of("64m"))
    assert 14 <= int(by_budget[1]) <= 24
    assert by_budget[2:4] == ["True", "False"]
    assert 14 <= int(by_growth[1]) <= 24
    assert by_growth[2:4] == ["True", "False"]
    assert "takes no more values: only" in by_growth[4]
    assert "64 MiB of shared memory are left" in by_growth[4]


def test_a_tiny_shm_gets_no_store():
    [line] = in_shm_of("1m")
    assert line.startswith("no sample store: only ")
    assert "shared memory" in line


def test_the_budget_is_what_the_tighter_of_both_leaves(monkeypatch):
    monkeypatch.setattr(HeadroomReader, "shm", lambda self: Headroom("shared memory", 8 * GIB, 16 * GIB, "/dev/shm"))
    monkeypatch.setattr(HeadroomReader, "memory", lambda self: Headroom("memory", 1.5 * GIB, 2 * GIB, "a group"))
    assert memory_budget(4 * GIB) == GIB
    assert memory_budget(100 * MIB) == 100 * MIB
    monkeypatch.setattr(HeadroomReader, "memory", lambda self: Headroom("memory", 0.5 * GIB, 2 * GIB, "a group"))
    with pytest.raises(StoreError, match="of memory"):
        memory_budget(4 * GIB)


def test_a_store_stops_growing_while_memory_is_short(monkeypatch, tmp_path):
    folder = os.fspath(tmp_path)
    rooms = [Headroom("memory", 3 * GIB, 4 * GIB, "a group"), Headroom("memory", 0.1 * GIB, 4 * GIB, "a group")]
    monkeypatch.setattr(room, "_MEMORY_SECONDS", 0.0)
    monkeypatch.setattr(room, "_reserve_bytes", lambda size: 0.25 * size if size == 4 * GIB else 0.0)
    monkeypatch.setattr(HeadroomReader, "memory", lambda self: rooms[0] if len(rooms) == 1 else rooms.pop(0))
    growth = Growth(folder)
    assert growth.why_not() is None
    assert "of memory" in growth.why_not()


def test_a_store_on_a_disk_is_not_held_back(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_reserve_bytes", lambda size: float("inf"))
    spec = spec_in(tmp_path)
    os.makedirs(spec.folder, mode=0o700)
    os.chmod(os.path.dirname(spec.folder), 0o700)
    store = Store(spec)
    store.put(b"a", encode(1))
    assert (store.get(b"a"), store.is_full) == (1, False)
