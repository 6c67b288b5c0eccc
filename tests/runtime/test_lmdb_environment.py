"""Damaged files and full disks: a store is made anew, or does without."""

import multiprocessing
import os
import random
import subprocess
from pathlib import Path

import pytest
from store_parts import assert_off, assert_usable, facts, fill, records, run_code, spec_in

from plumb.core.errors import StoreError
from plumb.runtime.store.store import MISSING, Store, key_of
from plumb.runtime.store.store_folder import StoreUse


def damaged(folder, how):
    path = Path(folder) / "data.mdb"
    size = path.stat().st_size
    if isinstance(how, float):
        os.truncate(path, int(size * how))
    elif isinstance(how, int):
        os.truncate(path, how)
    else:
        path.write_bytes(how)


DAMAGES = [0, 1, 100, 4096, 4096 + 200, 8191, 8192, 12288, 0.3, 0.9, 0.999, b"garbage", b"garbage" * 100_000]


@pytest.mark.parametrize("how", DAMAGES, ids=lambda how: repr(how)[:20])
@pytest.mark.parametrize("when", ["closed", "open"])
def test_a_damaged_file_is_thrown_away(how, when, spec):
    if when == "open" and isinstance(how, bytes):
        pytest.skip("to overwrite a file that is mapped is to change memory")
    store = Store(spec)
    store.put_many(records(range(64)))
    if when == "closed":
        store.close()
    damaged(spec.folder, how)
    assert store.get_many(list(map(key_of, range(64)))) == [MISSING] * 64
    assert_usable(store, range(64))
    assert store.count == 64


def test_a_damaged_page_gives_no_wrong_value(spec):
    path = Path(spec.folder) / "data.mdb"

    def use():
        store = Store(spec)
        found = store.get_many(list(map(key_of, range(64))))
        assert all(value is MISSING or value[0] == index for index, value in enumerate(found))
        store.put_many(records(range(64)))
        store.get_many(list(map(key_of, range(64))))

    for seed in range(20):
        fill(spec, 0, 64)
        pages = path.stat().st_size // 4096
        with path.open("r+b") as file:
            file.seek(4096 * random.Random(seed).randrange(2, pages))
            file.write(random.Random(seed).randbytes(100))
        job = multiprocessing.get_context("fork").Process(target=use)
        job.start()
        job.join()
        assert job.exitcode == 0
        path.unlink()


def test_another_process_keeps_what_was_thrown_away(spec):
    first, second = Store(spec), Store(spec)
    first.put_many(records(range(8)))
    reader = run_code(
        "store = Store(StoreSpec(sys.argv[1], 64 * MIB, 'disk', 'f')); print(store.count, flush=True); input();"
        "print(store.get(key_of(3)) is MISSING, store.reason)",
        spec.folder,
        stdin=subprocess.PIPE,
    )
    assert reader.stdout.readline() == "8\n"
    damaged(spec.folder, 100)
    assert second.get(key_of(3)) is MISSING
    assert_usable(second, range(8))
    assert reader.communicate("\n")[0] == "True None\n"


@pytest.fixture
def mount(tmp_path):
    """Mounts a file system of its own, as root can."""
    point = tmp_path / "mounted"
    point.mkdir()
    mounted = []

    def do(*options):
        done = subprocess.run(["mount", *options, str(point)], capture_output=True)
        if done.returncode:
            pytest.skip("file systems can't be mounted here")
        mounted.append(point)
        return point

    yield do
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.mark.parametrize("size", ["8m", "200k"])
def test_a_full_disk(mount, size):
    spec = spec_in(mount("-t", "tmpfs", "-o", f"size={size}", "none"))
    use = StoreUse(Path(spec.folder), facts())
    # In a process of its own: what goes wrong here is a signal.
    code = """
store = Store(StoreSpec(sys.argv[1], 64 * MIB, "disk", "fingerprint"))
for start in range(0, 3000, 16):
    store.put_many(records(range(start, start + 16)))
    found = store.get_many(list(map(key_of, range(start))))
    assert all(value in (MISSING, value_of(index)) for index, value in enumerate(found))
    if store.is_full:
        break
print(store.count, store.is_full, store.reason)
"""
    job = run_code(code, spec.folder)
    out, _ = job.communicate()
    assert job.returncode == 0
    count, is_full, reason = out.strip().split(" ", 2)
    assert (int(count) > 500) == (size == "8m")
    assert is_full == "True"
    assert reason.endswith("the disk is full")
    use.release()


def test_a_disk_too_full_for_any_store(mount):
    point = mount("-t", "tmpfs", "-o", "size=64k", "none")
    spec = spec_in(point)
    use = StoreUse(Path(spec.folder), facts())
    store = Store(spec)
    assert store.get(key_of(0)) is MISSING
    assert store.is_off
    assert store.reason.endswith("no space left on device")
    use.release()


def test_a_read_only_disk(mount, tmp_path):
    spec = spec_in(tmp_path / "real")
    StoreUse(Path(spec.folder), facts()).release()
    point = mount("--bind", str(tmp_path / "real"))
    subprocess.run(["mount", "-o", "remount,bind,ro", str(point)], check=True)
    seen = spec_in(point)
    with pytest.raises(StoreError, match="read-only file system"):
        StoreUse(Path(seen.folder), facts())
    assert_off(seen, "read-only file system")
