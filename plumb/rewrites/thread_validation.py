"""Validation of threads that make samples, tried as a loader will use them, in a process that may crash or hang.

Whole samples are compared, made by the loader's own classes while threads are switched at their calls. Correct values
from the threads alone prove nothing, because making them may change what the rest of a sample reads.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from plumb.core.config import Cut
from plumb.host.forked_trial import ChildOutcome, in_child, in_spawned_child
from plumb.host.threads import ReadingThreads, one_torch_thread
from plumb.instrument.dataset_objects import DatasetObjects, reached
from plumb.instrument.dataset_state import DatasetState
from plumb.instrument.executed_code import ExecutedCode
from plumb.instrument.file_positions import moved, positions
from plumb.instrument.rng_state import generator_states
from plumb.rewrites.thread_interleaving import interruptible, share_of_places
from plumb.rewrites.untried_code import SampleCode, why_untried
from plumb.rewrites.validate import DifferenceError, affordable_indices, digest_of, reason_of
from plumb.runtime.fetch import Fetch, FetchingDataset
from plumb.runtime.replay.replay import Replay

BATCHES = 3
BATCH_SAMPLES = 32
# Repetitions with switches of threads at calls, at different ones in each.
REPETITIONS = 4
# Number of reads of a sample, by which the samples are limited; threads that wait for each other are no faster than
# one.
READS = 8
SECONDS = 60.0
# Number of samples whose calls are counted, because a few may differ.
_COUNTED_SAMPLES = 3
# Number of samples for which all changes are searched, and the time limit of each search.
_LOOKED_AT_CLOSELY, _LOOK_SECONDS = 8, 0.1
# No repetition begins after this share of the time. What samples run is recorded for the second share.
_UNTIL, _RECORDED = 0.7, 0.15


InProcess = Callable[[Callable[[], Any], float], ChildOutcome[Any]]
"""Runs a function in a process of its own, within a number of seconds."""


def process_for_trials(
    dataset: Any,
    index: Any,
    seconds: float,
    forget: Callable[[], None] | None = None,
    why_not_spawned: Callable[[], str | None] | None = None,
) -> InProcess | str:
    """Return a function that does work in a process that can read the dataset, or the reason why there is none.

    A forked process can't read a dataset with a connection or a decoder with threads; then a spawned one is used.

    Args:
        dataset: Map-style. One sample is read in a forked child.
        index: The sample's index.
        seconds: Time limit for the sample.
        forget: Called in the forked child to make the dataset forget what this process has opened for it.
        why_not_spawned: Returns why no process can be spawned, None if one can. Without it, none is.
    """
    outcome = in_child(partial(_after, forget, partial(_read_one, dataset, index)), seconds)
    if outcome.reason is None:
        return lambda work, limit: in_child(partial(_after, forget, work), limit)
    why_not = why_not_spawned() if why_not_spawned else "no other was tried"
    if why_not:
        return f"a forked process can't read the dataset (making a sample {outcome.reason}), and {why_not}"
    return in_spawned_child


def validate_threads(
    dataset: Any,
    indices: Sequence[Any],
    threads: int,
    until: Cut | None = None,
    *,
    widest: int | None = None,
    seconds: float = SECONDS,
    process: InProcess = in_child,
) -> str | None:
    """Try whether `threads` threads make the same samples as one: whole ones, or the part before a cut.

    Up to three batches of `indices` are made several times, in a process of their own, because threads that share a
    decoder may crash it, or wait for each other. Neither whole samples nor the part before a cut may draw random
    numbers, which threads would do in another order, or change the dataset's objects or its positions in files.

    Args:
        dataset: Map-style. A sample is also read in this process, to measure its time.
        indices: Indices of different samples.
        threads: Number of threads to try.
        until: Cut up to which threads make samples; None for whole samples.
        widest: Largest number of threads of the loader, used in one repetition; None for `threads`.
        seconds: Time limit. Threads that have not finished by then are refused.
        process: Does the work, as `process_for_trials` returns it.

    Returns:
        None if no difference was found, else one short reason. Every failure is a reason.
    """
    ready: list[Any] = []
    unread = reason_of(lambda: ready.extend(affordable_indices(dataset, indices, READS, BATCHES * BATCH_SAMPLES)))
    if unread:
        return unread
    counts = [threads, widest or threads, *[threads] * (REPETITIONS - 2)]
    outcome = process(partial(_tried, dataset, ready, counts, until, _UNTIL * seconds), seconds)
    return f"making samples in threads {outcome.reason}" if outcome.reason else outcome.value


# ---- in the child


def _after(forget: Callable[[], None] | None, work: Callable[[], Any]) -> Any:
    if forget is not None:
        forget()
    return work()


def _read_one(dataset: Any, index: Any) -> None:
    dataset[index]


def _tried(dataset: Any, indices: list[Any], counts: list[int], until: Cut | None, seconds: float) -> str | None:
    return reason_of(lambda: _check(dataset, indices, counts, until, time.monotonic() + seconds))


def _check(dataset: Any, indices: list[Any], counts: Sequence[int], until: Cut | None, deadline: float) -> None:
    """Raise DifferenceError if samples depend on which thread makes them, with each number of threads in `counts`.

    Batches for which no time is left are not made, but each number of threads makes at least one.
    """
    held = DatasetObjects(dataset)
    replay = Replay(dataset, until)
    read = replay.sample if until is None else replay.prefix
    # With more of torch's threads than in a worker, sums may differ in their last bit.
    with held.kept(), one_torch_thread():
        batches = [indices[start : start + BATCH_SAMPLES] for start in range(0, len(indices), BATCH_SAMPLES)]
        code = SampleCode(dataset)
        executed = ExecutedCode(_RECORDED * (deadline - time.monotonic()), code.objects)
        executed.set_up(lambda: dataset[indices[0]])
        plain = [_seen(held, seed, partial(_plainly, dataset, batch, executed)) for seed, batch in enumerate(batches)]
        untried = why_untried(code, executed)
        if untried:
            raise DifferenceError(untried)
        made = [digest for digests, _ in plain for digest in digests]
        _check_effects(dataset, held, read, indices, made if until is None else None)
        few = indices[:_COUNTED_SAMPLES]
        share = share_of_places(lambda: list(map(Replay(dataset, None).sample, few)), len(few))
        with interruptible(share) as pauses:
            fetchings = {count: FetchingDataset(dataset, Fetch(threads=count, cut=until)) for count in counts}
            for count, fetching in fetchings.items():
                # Plumb's own one-time work per dataset and thread must not be interrupted.
                fetching.rewritten(batches[0][:count])
            for number, (batch, expected) in enumerate(zip(batches, plain, strict=True)):
                for repetition, count in enumerate(counts):
                    if time.monotonic() > deadline:
                        if number == 0 and repetition < len(fetchings):
                            raise DifferenceError("samples take too long to compare them within the budget")
                        return
                    with pauses.drawn_from(len(counts) * number + repetition):
                        found = _seen(held, number, partial(fetchings[count].rewritten, batch))
                    _compare(found, expected, count, until)


_Seen = tuple[list[bytes], tuple[Any, ...]]


def _compare(found: _Seen, expected: _Seen, threads: int, until: Cut | None) -> None:
    if found[0] != expected[0]:
        raise DifferenceError(_difference(threads, until))
    if found[1] != expected[1]:
        raise DifferenceError("random numbers are drawn in another order")


def _difference(threads: int, until: Cut | None) -> str:
    if until is None:
        return f"{threads} threads get other values than one"
    return f"samples differ when {threads} threads make what is before {until.after}"


def _plainly(dataset: Any, batch: Sequence[Any], executed: ExecutedCode) -> list[Any]:
    return [executed.read(partial(operator.getitem, dataset, index)) for index in batch]


def _seen(held: DatasetObjects, seed: int, read: Callable[[], list[Any]]) -> _Seen:
    """Read a batch under a seed; return its samples' digests, and the random generators' states afterwards."""
    held.seed(seed)
    samples = read()
    return [digest_of(sample) for sample in samples], generator_states(held.generators)


def _check_effects(
    dataset: Any,
    held: DatasetObjects,
    read: Callable[[Any], Any],
    indices: Sequence[Any],
    expected: Sequence[bytes] | None,
) -> None:
    """Raise DifferenceError if the threads' work changes anything that they would share.

    Two threads take turns. A file whose position both of them move is shared; one that each has opened itself is not.
    The results of `read` must have the digests in `expected`, if given.
    """
    with ReadingThreads(1) as other:
        turns: tuple[Callable[[Any], Any], ...] = read, lambda index: other.submit(read, index).result()
        # Everything that is opened at a thread's first access is open from here on.
        turns[1](indices[0])
        turns[0](indices[-1])
        handles = [value for value in reached(dataset) if hasattr(type(value), "tell") and hasattr(type(value), "seek")]
        state = DatasetState([dataset], by_value=True)
        state.look(_LOOK_SECONDS)
        moved_by: tuple[set[Any], set[Any]] = set(), set()
        for place, index in enumerate(indices):
            held.disturb()
            before, states, places = held.state(), generator_states(held.generators), positions(handles)
            value = turns[place % 2](index)
            moved_by[place % 2].update(moved(places, positions(handles)))
            changed = held.changed(before)
            if not changed and place < _LOOKED_AT_CLOSELY:
                # A cache of samples, such as a dictionary, doesn't depend on the thread.
                changes = [change.place for change in state.look(_LOOK_SECONDS) if not change.is_growth]
                changed = changes[0] if changes else ""
            if changed:
                raise DifferenceError(f"{changed} changes while a sample is made")
            if states != generator_states(held.generators):
                raise DifferenceError("random numbers are drawn, which threads would do in another order")
            if expected is not None and digest_of(value) != expected[place]:
                raise DifferenceError("samples differ when they are read twice")
            shared = moved_by[0] & moved_by[1]
            if shared:
                raise DifferenceError(f"threads would share the position in {max(shared)[1]}")
