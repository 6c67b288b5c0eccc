"""The sample store: what was put in comes out, whatever happens to its processes, its files and its disk."""

import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumb.runtime import store_folder
from plumb.runtime.cache import MISSING, Store, StoreSpec, key_of
from plumb.runtime.codec import encode
from plumb.runtime.opened import opened_files
from plumb.runtime.store_folder import StoreError, StoreFacts, StoreUse

MIB = 2**20
TESTS = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def own_cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def value_of(index):
    """A value that only its index can give, of some pages."""
    return index, bytes([index % 251]) * (2000 + index % 7 * 3000)


def records(indices):
    return [(key_of(index), encode(value_of(index)), ()) for index in indices]


def facts(tier="disk", budget=64 * MIB):
    return StoreFacts("Images", "load", tier, budget)


def spec_in(cache_dir, budget=64 * MIB, tier="disk"):
    folder = store_folder.disk_root(cache_dir) / "fingerprint"
    return StoreSpec(str(folder), budget, tier, "fingerprint")


@pytest.fixture
def spec(tmp_path):
    spec = spec_in(tmp_path)
    use = StoreUse(Path(spec.folder), facts())
    yield spec
    use.release()


def assert_usable(store, indices):
    """The store takes values and gives each of its values as it was."""
    store.put_many(records(indices))
    found = store.get_many([key_of(index) for index in indices])
    assert store.reason is None
    assert found == [value_of(index) for index in indices]


def test_values_come_back_and_others_are_missing(spec):
    store = Store(spec)
    assert not store.is_open
    store.put_many(records(range(10)))
    assert store.get_many([key_of(3), None, key_of(99)]) == [value_of(3), MISSING, MISSING]
    assert store.get(key_of(7)) == value_of(7)
    assert (store.count, store.is_open) == (10, True)
    assert 0 < store.used_bytes <= spec.budget_bytes
    store.close()
    assert not store.is_open
    assert store.get(key_of(7)) == value_of(7)


def test_a_store_travels_as_its_spec(spec):
    store = Store(spec)
    store.put_many(records([1]))
    other = pickle.loads(pickle.dumps(store))
    assert not other.is_open
    assert other.get(key_of(1)) == value_of(1), "two in one process share what is open"
    store.close()
    assert other.get(key_of(1)) == value_of(1)


indices = st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


@given(indices, indices)
def test_keys_tell_indices_apart(one, other):
    assert (key_of(one) == key_of(other)) == (repr(one) == repr(other))


def test_keys_of_other_things():
    import numpy

    assert key_of("x" * 10_000) != key_of("x" * 10_001)
    assert len(key_of("x" * 10_000)) < 511
    assert key_of(numpy.int64(3)) not in (key_of(3), key_of(numpy.int32(3)), None)
    assert [key_of(index) for index in (1.5, True, None, [1], (1, None), numpy.zeros(3))] == [None] * 6


@pytest.mark.parametrize("budget", [MIB, 3 * MIB])
def test_the_budget_holds_on_the_disk(tmp_path, budget):
    spec = spec_in(tmp_path, budget)
    StoreUse(Path(spec.folder), facts())
    store = Store(spec)
    for start in range(0, 1000, 16):
        store.put_many(records(range(start, start + 16)))
    assert store.is_full
    assert store.reason is None
    count = store.count
    stored = sum(len(encode(value_of(index))) for index in range(count))
    assert 0.8 * budget < stored < budget
    on_disk = sum(path.stat().st_blocks * 512 for path in Path(spec.folder).rglob("*"))
    assert on_disk <= budget + 128 * 1024
    assert store.get_many(list(map(key_of, range(count)))) == [value_of(index) for index in range(count)]
    other = Store(spec)
    other.put_many(records(range(5000, 5100)))
    assert other.is_full
    assert MISSING not in other.get_many(list(map(key_of, range(count)))), "nothing is evicted"


def test_a_changed_file_is_a_miss_and_is_stored_anew(spec, tmp_path):
    path = tmp_path / "sample"
    store = Store(spec)

    def load():
        with opened_files() as files:
            text = path.read_text()
        store.put_many([(key_of(0), encode(text), files)])

    path.write_text("one")
    load()
    assert store.get(key_of(0)) == "one"
    path.write_text("three")
    assert store.get(key_of(0)) is MISSING
    load()
    assert (store.get(key_of(0)), store.count) == ("three", 1)
    path.unlink()
    assert store.get(key_of(0)) is MISSING


def test_a_value_that_can_not_be_restored_is_a_miss(spec):
    store = Store(spec)
    store.put(key_of(0), b"no value at all")
    store.put(key_of(1), encode(value_of(1)))
    assert store.get_many([key_of(0), key_of(1)]) == [MISSING, value_of(1)]
    assert store.reason is None


# Processes


def run_code(code, *words, **options):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {TESTS!r})\nfrom test_cache import *\n{code}"]
    return subprocess.Popen([*command, *map(str, words)], stdout=subprocess.PIPE, text=True, **options)


WRITE_FOREVER = """
store = Store(StoreSpec(sys.argv[1], 64 * MIB, "memory", "fingerprint"))
print("ready", flush=True)
while True:
    start = random.randrange(0, 2000, 16)
    store.put_many(records(range(start, start + 16)))
    store.get_many(list(map(key_of, range(start, start + 16))))
"""


def test_writers_killed_at_any_moment_leave_a_usable_store(spec):
    chance = random.Random(0)
    for _ in range(4):
        writers = [run_code(WRITE_FOREVER, spec.folder) for _ in range(2)]
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.3))
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
        store = Store(spec)
        found = {index: store.get(key_of(index)) for index in [*range(2000), *range(3000, 3010)]}
        assert all(value in (MISSING, value_of(index)) for index, value in found.items())
        assert store.count == sum(value is not MISSING for value in found.values())
        assert_usable(store, range(3000, 3010))
        store.close()


def fill(spec, start, count):
    store = Store(spec)
    for first in range(start, start + count, 16):
        store.put_many(records(range(first, first + 16)))


def check(spec, count, results):
    store = Store(spec)
    found = store.get_many(list(map(key_of, range(count))))
    results.put((found == list(map(value_of, range(count))), store.reason))


def test_two_processes_fill_one_store_at_once(spec):
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=fill, args=(spec, start, 320)) for start in (0, 160, 0)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    store = Store(spec)
    assert store.count == 480
    assert_usable(store, range(480))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_readers_in_other_processes(method, spec, monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    store = Store(spec)
    store.put_many(records(range(32)))
    store.close()
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    job = context.Process(target=check, args=(spec, 32, results))
    job.start()
    job.join(60)
    assert (job.exitcode, results.get()) == (0, (True, None))


def test_a_store_that_was_open_before_a_fork_does_no_harm(spec):
    store = Store(spec)
    store.put_many(records(range(32)))
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def use_inherited():
        results.put((store.is_open, store.get(key_of(3)) in (MISSING, value_of(3))))

    job = context.Process(target=use_inherited)
    job.start()
    job.join(60)
    assert (job.exitcode, results.get()) == (0, (False, True))
    assert_usable(store, range(64))


def test_jobs_with_other_budgets_share_a_store(spec):
    small = Store(StoreSpec(spec.folder, MIB, "disk", "fingerprint"))
    small.put_many(records(range(4)))
    context = multiprocessing.get_context("fork")
    small.close()
    job = context.Process(target=fill, args=(spec, 0, 640))
    assert small.get(key_of(0)) == value_of(0)
    small.close()
    job.start()
    job.join()
    assert small.get(key_of(630)) == value_of(630)
    large = run_code("fill(StoreSpec(sys.argv[1], 64 * MIB, 'disk', 'f'), 640, 640)", spec.folder)
    assert large.wait() == 0
    large.stdout.close()
    assert small.get(key_of(1200)) == value_of(1200)
    assert small.reason is None


# Damage


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


# Disks and folders


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
store = Store(StoreSpec(sys.argv[1], 64 * MIB, "memory", "fingerprint"))
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


def assert_off(spec, reason):
    store = Store(spec)
    store.put_many(records(range(3)))
    assert store.get(key_of(1)) is MISSING
    assert (store.count, store.used_bytes, store.is_off, store.is_open) == (0, 0, True, False)
    assert store.reason.startswith("the sample store in ")
    assert reason in store.reason
    assert "\n" not in store.reason


def test_a_missing_folder(spec):
    shutil.rmtree(spec.folder)
    assert_off(spec, "no such file or directory")


@pytest.mark.parametrize("which", ["the store", "the folder around it"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda folder: os.chown(folder, 12345, -1), "belongs to another user"),
        (lambda folder: folder.chmod(0o770), "may be written to by others"),
        (lambda folder: folder.chmod(0o707), "may be written to by others"),
        (lambda folder: folder.symlink_to(folder.rename(folder.parent / "elsewhere")), "is not a folder"),
        (lambda folder: folder.write_text(str(folder.rename(folder.parent / "elsewhere"))), "is not a folder"),
    ],
)
def test_no_pickle_is_read_from_where_others_could_have_put_it(how, reason, which, spec):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    Store(spec).put_many(records(range(3)))
    folder = Path(spec.folder)
    how(folder if which == "the store" else folder.parent)
    assert_off(spec, reason)
    with pytest.raises(StoreError):
        StoreUse(folder, facts())


def test_folders_are_private(spec):
    Store(spec).put_many(records(range(3)))
    for path in (Path(spec.folder), Path(spec.folder).parent, *Path(spec.folder).rglob("*")):
        assert path.stat().st_mode & 0o077 == 0 or path.name == "store.json"


# Uses


def test_a_store_in_memory_goes_with_its_last_user(tmp_path, monkeypatch):
    monkeypatch.setattr(store_folder, "SHARED_MEMORY", tmp_path)
    folder = store_folder.memory_root() / "fingerprint"
    first = StoreUse(folder, facts("memory"))
    second = StoreUse(folder, facts("memory"))
    assert store_folder.users_of(folder) == (os.getpid(),)
    first.release()
    assert folder.exists()
    second.release()
    assert not folder.parent.exists()


KEEP = """
store_folder.SHARED_MEMORY = Path(sys.argv[1])
use = StoreUse(store_folder.memory_root() / sys.argv[2], facts("memory"))
print("ready", flush=True)
"""


def test_a_store_in_memory_goes_with_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(store_folder, "SHARED_MEMORY", tmp_path)
    ended = run_code(KEEP, tmp_path, "ended")
    assert ended.communicate()[0] == "ready\n"
    assert not store_folder.memory_root().exists()
    killed = run_code(KEEP + "input()", tmp_path, "killed", stdin=subprocess.PIPE)
    assert killed.stdout.readline() == "ready\n"
    folder = store_folder.memory_root() / "killed"
    assert store_folder.users_of(folder) == (killed.pid,)
    killed.kill()
    killed.communicate()
    assert folder.exists()
    assert store_folder.users_of(folder) == ()
    StoreUse(store_folder.memory_root() / "next", facts("memory")).release()
    assert not folder.exists()


def test_a_child_does_not_end_its_parent_s_use(tmp_path, monkeypatch):
    monkeypatch.setattr(store_folder, "SHARED_MEMORY", tmp_path)
    folder = store_folder.memory_root() / "fingerprint"
    use = StoreUse(folder, facts("memory"))
    job = multiprocessing.get_context("fork").Process(target=use.release)
    job.start()
    job.join()
    assert store_folder.users_of(folder) == (os.getpid(),)
    use.release()
