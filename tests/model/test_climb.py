"""Sources that are climbed, on a virtual one: what is asked of it, where the climb ends, and what is believed then."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumb.model.concurrency_climb import ClimbEnd, ReadsAtOnce, capacity_of, next_reads

LOOKS_AT_MOST, MOST = 60, 1024


@dataclasses.dataclass(frozen=True)
class Server:
    """Does `slots` reads at once, `seconds` each, and lets `backlog` wait; beyond that, connections are dropped."""

    slots: int
    seconds: float = 0.01
    backlog: int = 10_000
    cpu_rate: float = 1e9
    drops: bool = True

    @property
    def best(self):
        return self.rate(min(self.slots, MOST))

    def rate(self, reads):
        rate = min(reads, self.slots) / self.seconds
        if reads > self.slots + self.backlog:
            rate *= 0.2
        return min(rate, self.cpu_rate)

    def look(self, reads, standstill=1.0):
        is_beyond = reads > self.slots + self.backlog
        return ReadsAtOnce(
            reads,
            self.rate(reads) * standstill,
            busy_share=self.rate(reads) / self.cpu_rate,
            tried_again=0.1 if is_beyond and self.drops else 0.0,
        )


servers = st.builds(
    Server,
    slots=st.integers(1, 300),
    seconds=st.floats(1e-3, 1.0),
    backlog=st.sampled_from([5, 128, 1024]),
    drops=st.booleans(),
)


def climb(look, most=MOST):
    """All readings of a climb."""
    seen = []
    while (reads := next_reads(seen, most)) is not None:
        seen.append(look(reads))
        assert len(seen) <= LOOKS_AT_MOST
    return seen


@given(servers, st.integers(1, 2000))
def test_a_source_is_never_asked_for_more_than_twice_what_was_good(server, most):
    seen = []
    while (reads := next_reads(seen, most)) is not None:
        good = capacity_of(seen, most).good_reads if seen else 1
        assert reads <= min(most, 2 * good)
        seen.append(server.look(reads))
    assert capacity_of(seen, most).most_reads <= most


@given(servers)
def test_the_climb_ends_near_the_best_and_asks_for_little_more_than_that_takes(server):
    capacity = capacity_of(climb(server.look), MOST)
    # Where twice as many would be dropped, and one and a half times as many, too, it ends below.
    missed = 1.1 if server.backlog >= server.slots else 1.5
    assert capacity.samples_per_second_at_most >= server.best / missed * 0.999
    # What is used in the end: the fewest reads of the curve that give next to all.
    curve = zip(capacity.reads, capacity.samples_per_second, strict=True)
    used = next(reads for reads, rate in curve if rate >= 0.95 * capacity.samples_per_second_at_most)
    assert used <= 1.5 * server.slots


@given(servers)
def test_the_limit_lies_below_the_number_at_which_connections_were_dropped(server):
    capacity = capacity_of(climb(server.look), MOST)
    assert capacity.most_reads <= server.slots + server.backlog
    assert list(capacity.samples_per_second) == sorted(capacity.samples_per_second)
    assert capacity.reads[-1] == capacity.most_reads


@given(servers, st.integers(2, 200), st.booleans())
def test_failures_end_the_climb_at_once(server, fails_at, only_once):
    def look(reads):
        failures = reads >= fails_at and not (only_once and any(one.failures for one in seen))
        return dataclasses.replace(server.look(reads), failures=int(failures), reason="refused" if failures else "")

    seen = []
    while (reads := next_reads(seen, MOST)) is not None:
        assert not any(one.failures for one in seen)
        seen.append(look(reads))
    capacity = capacity_of(seen, MOST)
    if any(one.failures for one in seen):
        assert capacity.end is ClimbEnd.FAILED
        assert capacity.most_reads < fails_at
        assert capacity.reason == "refused"


def test_a_single_read_that_fails_leaves_nothing():
    capacity = capacity_of([ReadsAtOnce(1, 0.0, failures=1, reason="no such file")], 64)
    assert (capacity.most_reads, capacity.end, capacity.reads) == (0, ClimbEnd.FAILED, ())


@settings(deadline=None)
@given(servers, st.integers(0, 1000))
def test_a_host_that_stands_still_for_a_moment_ends_no_climb(server, seed):
    """Every other reading of a number is right; the rest is lower by any factor."""
    rng, last = random.Random(seed), {}

    def look(reads):
        last[reads] = 1.0 if last.get(reads, 1.0) < 1.0 else rng.choice([1.0, rng.uniform(0.05, 0.9)])
        return server.look(reads, last[reads])

    capacity = capacity_of(climb(look), MOST)
    # A climb may end one step early: where half of the step was read at its best, and the step itself was not.
    assert server.rate(capacity.most_reads) >= server.best / 2.3


@pytest.mark.parametrize(
    ("server", "end"),
    [
        (Server(16), ClimbEnd.FLAT),
        (Server(16, backlog=5), ClimbEnd.TRIED_AGAIN),
        (Server(16, backlog=5, drops=False), ClimbEnd.LESS),
        (Server(64, cpu_rate=1000.0), ClimbEnd.CPU),
        (Server(1024), ClimbEnd.MOST),
    ],
)
def test_what_ended_a_climb_is_told_apart(server, end):
    capacity = capacity_of(climb(server.look, 128), 128)
    assert capacity.end is end
    assert capacity.is_exhausted == (end not in (ClimbEnd.CPU, ClimbEnd.MOST))


def test_connections_that_are_tried_again_now_and_then_anyway_end_nothing():
    def look(reads):
        return dataclasses.replace(Server(16).look(reads), tried_again=0.03)

    assert capacity_of(climb(look), MOST).end is ClimbEnd.FLAT


def test_a_climb_that_has_no_time_left_holds_what_it_has_seen():
    seen = [Server(64).look(reads) for reads in (1, 2, 4)]
    capacity = capacity_of(seen, 64, "no time")
    assert (capacity.end, capacity.most_reads, capacity.reason) == (ClimbEnd.TIME, 4, "no time")


@pytest.mark.parametrize(
    ("server", "middle"), [(Server(16), 12), (Server(18), 24), (Server(16, backlog=10), 24), (Server(2), None)]
)
def test_the_middle_of_the_last_step_is_looked_at_last(server, middle):
    seen = [one.reads for one in climb(server.look)]
    assert (seen[-1] if seen[-1] & (seen[-1] - 1) else None) == middle
