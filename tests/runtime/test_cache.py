"""The sample store: what was put in comes out, whatever happens to its processes, its files and its disk."""

import dataclasses
import multiprocessing
import pickle
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_parts import HERE, MIB, assert_usable, facts, fill, records, run_code, spec_in, value_of

from plumb.instrument.opened_files import opened_files
from plumb.runtime.store.codec import encode
from plumb.runtime.store.store import MISSING, Store, StoreSpec, key_of
from plumb.runtime.store.store_folder import StoreUse


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


def write_forever(spec, ready):
    store = Store(spec)
    ready.set()
    while True:
        start = random.randrange(0, 2000, 16)
        store.put_many(records(range(start, start + 16)))
        store.get_many(list(map(key_of, range(start, start + 16))))


@pytest.mark.parametrize("tier", ["memory", "disk"])
def test_writers_killed_at_any_moment_leave_a_usable_store(tier, spec):
    spec = dataclasses.replace(spec, tier=tier)
    chance, context = random.Random(0), multiprocessing.get_context("fork")
    everything = [*range(2000), *range(3000, 3010)]
    for _ in range(6):
        started = [context.Event(), context.Event()]
        writers = [context.Process(target=write_forever, args=(spec, event)) for event in started]
        for writer in writers:
            writer.start()
        for event in started:
            assert event.wait(30)
        time.sleep(chance.uniform(0, 0.2))
        for writer in writers:
            writer.kill()
            writer.join()
        store = Store(spec)
        found = dict(zip(everything, store.get_many(list(map(key_of, everything))), strict=True))
        assert all(value in (MISSING, value_of(index)) for index, value in found.items())
        assert store.count == sum(value is not MISSING for value in found.values())
        assert_usable(store, range(3000, 3010))
        store.close()


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
    monkeypatch.syspath_prepend(HERE)
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
