"""Clocks, costs, the generators' states, bytes read, and the interpreter's lock."""

import hashlib
import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumb.host.read_counter import ReadCounter
from plumb.instrument.function_rewriter import Rewriter
from plumb.instrument.recorder import SAMPLE, Node
from plumb.instrument.rng_state import disturb_generators, generator_states, restored_generators
from plumb.tracing.gil_pass import LockWatch
from plumb.tracing.timing_pass import Clock, Timing, costs, time_call, without_slowest


def root():
    return Node(None, SAMPLE, "sample", "")


def child(parent, name):
    return parent.child(SAMPLE, name, "")


def spinning(count):
    total = 0
    for number in range(count):
        total += number
    return total


def waiting(seconds):
    time.sleep(seconds)
    return seconds


def both(value):
    waiting(0.01)
    return spinning(value)


def test_waiting_and_computing():
    _, waited = time_call(lambda: time.sleep(0.02))
    _, computed = time_call(lambda: spinning(100_000))
    assert waited.wait > waited.cpu
    assert computed.cpu > 0
    assert computed.wait <= computed.cpu


def test_what_other_threads_of_the_process_compute_is_computing():
    # As the threads of a tokenizer: the digest is made without the interpreter's lock, while this thread waits for it.
    data = bytes(50_000_000)
    with ThreadPoolExecutor(1) as pool:
        _, clock = time_call(lambda: pool.submit(hashlib.sha256, data).result())
    _, alone = time_call(lambda: hashlib.sha256(data))
    assert clock.cpu > alone.cpu / 4


@pytest.mark.slow
@pytest.mark.quiet
def test_a_node_has_its_own_time_and_no_more():
    top = root()
    timing = Timing(top, Rewriter())
    with timing:
        assert timing.enter(SAMPLE, both, 100_000) == spinning(100_000)
    clocks = {node.name: clock for node, clock in timing.take().items()}
    assert set(clocks) == {"both", "waiting", "sleep", "spinning"}
    assert all(clock.calls == 1 for clock in clocks.values())
    assert clocks["sleep"].wait > clocks["sleep"].cpu
    assert clocks["both"].wait < clocks["sleep"].wait
    assert timing.take() == {}


def test_a_call_that_raises_is_timed_and_not_counted():
    clock = Clock()

    def failing():
        spinning(10_000)
        raise ValueError

    timing = Timing(root(), Rewriter())
    with timing, pytest.raises(ValueError):
        timing.enter(SAMPLE, failing)
    clocks = {node.name: clock for node, clock in timing.take().items()}
    assert clocks["failing"].calls == 0
    assert clocks["spinning"].calls == 1
    assert clock.calls == 0


@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))), min_size=1, max_size=20))
def test_costs_add_up_over_samples(figures):
    node = child(root(), "one")
    units = [{} if figure is None else {node: Clock(*figure, calls=2)} for figure in figures]
    visits = [figure for figure in figures if figure is not None]
    found = costs(units, 1)
    if not visits:
        assert found == {}
        return
    cost = found[node]
    total = sum(cpu + wait for cpu, wait in visits) / 1e9
    assert cost.wall_seconds == pytest.approx(total / len(figures))
    assert cost.cpu_seconds + cost.wait_seconds == pytest.approx(cost.wall_seconds)
    assert cost.visit_ratio == pytest.approx(len(visits) / len(figures))
    assert cost.calls_per_sample == pytest.approx(2 * len(visits) / len(figures))
    assert cost.quartile_seconds[0] <= cost.median_seconds <= cost.quartile_seconds[1]


def test_costs_of_groups_are_per_sample():
    node = child(root(), "one")
    cost = costs([{node: Clock(8000, 0, calls=1)}], 4)[node]
    assert cost.wall_seconds == pytest.approx(2e-6)
    assert (cost.visit_ratio, cost.calls_per_sample) == (1.0, 0.25)


def test_recording_is_taken_out_of_the_calls_around():
    top = root()
    timing = Timing(top, Rewriter(), overhead_seconds=10.0)
    with timing:
        timing.enter(SAMPLE, both, 10)
    clocks = {node.name: clock for node, clock in timing.take().items()}
    assert clocks["both"].cpu == 0
    assert clocks["spinning"].cpu > 0


@given(st.lists(st.floats(0, 1), max_size=200))
def test_only_the_slowest_are_left_out(seconds):
    kept = without_slowest(seconds, float)
    assert len(kept) == len(seconds) - int(0.03 * len(seconds))
    assert sorted(kept) == sorted(seconds)[: len(kept)]


def test_the_states_of_generators_are_seen_and_put_back():
    own = np.random.default_rng(0)
    for draw in (random.random, np.random.random, lambda: torch.rand(1), own.random):
        before = generator_states([own])
        assert generator_states([own]) == before
        draw()
        assert generator_states([own]) != before
    before = generator_states([])
    with restored_generators():
        disturb_generators()
        assert all(a != b for a, b in zip(generator_states([]), before, strict=True))
    assert generator_states([]) == before


def test_bytes_read_by_this_thread(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(300_000))
    with ReadCounter() as reads:
        if not reads.counts:
            pytest.skip("this host doesn't say what a thread reads")
        start = reads.bytes_read()
        assert reads.bytes_read() == start
        path.read_bytes()
        assert reads.bytes_read() - start >= 300_000
    assert reads.bytes_read() is None


def test_who_holds_the_interpreters_lock():
    top = root()
    watch = LockWatch(top, Rewriter())

    def steps():
        time.sleep(0.05)
        sum(range(3_000_000))
        return abs(-1)

    with watch:
        watch.enter(SAMPLE, steps)
    nodes = {node.name: node for node in top.walk()}
    assert watch.free_share(nodes["sleep"]) > 0.5
    assert watch.free_share(nodes["sum"]) < 0.5
    assert watch.free_share(nodes["abs"]) is None
