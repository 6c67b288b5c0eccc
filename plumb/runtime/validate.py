"""Whether a rewrite leaves the data as it is: tried on the user's own samples before it is offered.

Each function returns None where it found no difference, and else one short reason. Whatever goes wrong is a reason.
"""

from __future__ import annotations

import operator
import pickle
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from plumb.config import Cut
from plumb.profile.randomness import generator_states
from plumb.profile.threads import ReadingThreads, one_torch_thread
from plumb.runtime.answered import Answered, Tree
from plumb.runtime.held import Held
from plumb.runtime.interrupted import interrupted
from plumb.runtime.replay import Replay, ReplayError
from plumb.runtime.skipped import SkippedUsed
from plumb.trace.recorder import SAMPLE
from plumb.trace.values import digest

MOST_SAMPLES = 8
FEWEST_SAMPLES = 3
BATCHES = 3
BATCH_SAMPLES = 32
REPETITIONS = 3
AFFORDED_SECONDS = 8.0
READS_FOR_A_CUT = 10
READS_FOR_THREADS = 5
START_SECONDS = 60.0


class _DifferenceError(Exception):
    """What was found. The message is the reason."""


def validate_cut(dataset: Any, cut: Cut, indices: Sequence[Any]) -> str | None:
    """Whether samples come out the same, bit for bit, when the cut's value is kept, made ahead, and given back.

    Tried on up to eight of `indices`, spread over all, and on fewer where samples are slow; under several states of
    the random generators and in two orders. The random numbers that the rest of a sample draws must be the same, too,
    and what is skipped must not change the dataset. The generators are put back as they were.
    """
    return _reason(lambda: _check_cut(dataset, cut, _afforded(dataset, indices, READS_FOR_A_CUT, MOST_SAMPLES)))


def validate_threads(dataset: Any, indices: Sequence[Any], threads: int, until: Cut | None = None) -> str | None:
    """Whether `threads` threads that read at once get what one gets: whole samples, or their prefixes `until` a cut.

    Tried on up to three batches of `indices`, several times each, with threads that are interrupted often. Whole
    samples must not draw random numbers, for threads would draw them in another order.
    """
    most = BATCHES * BATCH_SAMPLES
    return _reason(
        lambda: _check_threads(dataset, _afforded(dataset, indices, READS_FOR_THREADS, most), threads, until)
    )


def _reason(check: Callable[[], None]) -> str | None:
    try:
        check()
    except _DifferenceError as found:
        return str(found)
    except (ReplayError, SkippedUsed) as error:
        return str(error) or "what was skipped is looked at"
    except Exception as error:
        return f"it raised {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return None


def _check_cut(dataset: Any, cut: Cut, indices: list[Any]) -> None:
    held = Held(dataset)
    replay = Replay(dataset, cut)
    with held.kept():
        for index in indices:
            dataset[index]  # what is opened at the first access is open from here on
        for index in indices:
            _check_changes(dataset, cut, held, index)
        stored = [_check_sample(replay, held, index, seed) for seed, index in enumerate(indices)]
        _check_in_another_order(replay, held, indices[::-1], stored[::-1])


def _check_changes(dataset: Any, cut: Cut, held: Held, index: Any) -> None:
    """Raises where a call that would be skipped changes what the dataset holds, or draws random numbers."""
    found: list[str] = []

    def watched(function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        before, states = held.state(), generator_states(held.generators)
        result = function(*arguments, **keywords)
        found.append(held.changed(before))
        if states != generator_states(held.generators):
            found.append("a random generator")
        return result

    if cut.way == ():
        watched(operator.getitem, (dataset, index), {})
    else:
        tree = Tree([cut.way, *cut.feeds])
        recorder = Answered(tree, dict.fromkeys(tree.nodes.values(), watched))
        with recorder:
            recorder.enter(SAMPLE, operator.getitem, dataset, index)
    for changed in filter(None, found):
        raise _DifferenceError(f"{changed} changes before the end of {cut.after}")


@dataclass(frozen=True)
class _Seen:
    """A sample's digest, and the states of the random generators behind it."""

    digest: bytes
    states: tuple[Any, ...]


@dataclass(frozen=True)
class _Stored:
    """A cut's value as a store would have it, and its digest."""

    pickled: bytes
    digest: bytes

    def value(self) -> Any:
        return pickle.loads(self.pickled)


def _check_sample(replay: Replay, held: Held, index: Any, seed: int) -> _Stored:
    """Raises where keeping the cut's value, or giving it back, changes a sample; the value that was kept."""
    stored: list[_Stored] = []

    def keep(value: Any) -> None:
        stored.append(_Stored(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL), _digest(value)))

    plain = _seen(held, seed, lambda: replay.dataset[index])
    if plain != _seen(held, seed, lambda: replay.dataset[index]):
        raise _DifferenceError("samples differ when they are read twice under the same random numbers")
    if plain != _seen(held, seed, lambda: replay.sample_keeping(index, keep)):
        raise _DifferenceError("samples differ when the value is kept")
    if _digest(stored[0].value()) != stored[0].digest:
        raise _DifferenceError("the value is not the same once it was stored")
    if plain != _seen(held, seed, lambda: replay.sample_from(index, stored[0].value())):
        raise _DifferenceError("samples differ when they are made from the stored value")
    return stored[0]


def _check_in_another_order(replay: Replay, held: Held, indices: list[Any], stored: list[_Stored]) -> None:
    """Raises where another state of the random generators, or the sample read before, makes a difference."""
    seeds = range(len(indices), 2 * len(indices))
    for seed, index, kept in zip(seeds, indices, stored, strict=True):
        held.seed(seed)
        states = generator_states(held.generators)
        if _seen(held, seed, partial(replay.prefix, index)) != _Seen(kept.digest, states):
            raise _DifferenceError("the value depends on more than the index")
    plain = [
        _seen(held, seed, partial(operator.getitem, replay.dataset, index))
        for seed, index in zip(seeds, indices, strict=True)
    ]
    samples = []
    for seed, index, kept, expected in zip(seeds, indices, stored, plain, strict=True):
        held.seed(seed)
        samples.append(replay.sample_from(index, kept.value()))
        if expected != _Seen(_digest(samples[-1]), generator_states(held.generators)):
            raise _DifferenceError("samples differ when they are made from a value stored under other random numbers")
    for index, kept in zip(indices, stored, strict=True):
        replay.sample_from(index, kept.value())
    if [_digest(sample) for sample in samples] != [expected.digest for expected in plain]:
        raise _DifferenceError("a sample changes when another one is made")


def _check_threads(dataset: Any, indices: list[Any], threads: int, until: Cut | None) -> None:
    held = Held(dataset)
    replay = Replay(dataset, until)
    read = replay.sample if until is None else replay.prefix
    # With more of torch's own threads than a worker has, sums may differ in their last bit.
    with held.kept(), one_torch_thread(), ReadingThreads(threads) as pool:
        alone = {place: _read_alone(held, read, index) for place, index in enumerate(indices)}
        for start in range(0, len(indices), BATCH_SAMPLES):
            batch = list(enumerate(indices))[start : start + BATCH_SAMPLES]
            held.seed(start)
            plain = [_digest(dataset[index]) for _, index in batch]
            for _ in range(REPETITIONS):
                values = _read_together(pool, threads, read, [index for _, index in batch])
                if [_digest(value) for value in values] != [alone[place] for place, _ in batch]:
                    raise _DifferenceError(f"{threads} threads get other values than one")
                if until is not None:
                    held.seed(start)
                    made = [replay.sample_from(index, value) for (_, index), value in zip(batch, values, strict=True)]
                    if [_digest(sample) for sample in made] != plain:
                        raise _DifferenceError(
                            f"samples differ when {threads} threads make what is before {until.after}"
                        )


def _read_alone(held: Held, read: Callable[[Any], Any], index: Any) -> bytes:
    """The digest of what one thread reads. Raises where that is not decided by the index alone."""
    read(index)  # what is opened at the first access is open from here on
    held.disturb()
    before, states = held.state(), generator_states(held.generators)
    first = _digest(read(index))
    changed = held.changed(before)
    if changed:
        raise _DifferenceError(f"{changed} changes while a sample is made")
    if states != generator_states(held.generators):
        raise _DifferenceError("random numbers are drawn, which threads would do in another order")
    held.disturb()
    if first != _digest(read(index)):
        raise _DifferenceError("samples differ when they are read twice")
    return first


def _read_together(pool: ReadingThreads, threads: int, read: Callable[[Any], Any], indices: Sequence[Any]) -> list[Any]:
    """What the threads read, in the order of the indices. They start at the same moment."""
    lanes = [indices[lane::threads] for lane in range(min(threads, len(indices)))]
    start = threading.Barrier(len(lanes))

    def run(lane: Sequence[Any], seed: int) -> list[Any]:
        start.wait(START_SECONDS)
        return list(map(interrupted(read, seed), lane))

    results = [waiting.result() for waiting in [pool.submit(run, lane, seed) for seed, lane in enumerate(lanes)]]
    return [results[place % len(lanes)][place // len(lanes)] for place in range(len(indices))]


def _seen(held: Held, seed: int, read: Callable[[], Any]) -> _Seen:
    held.seed(seed)
    return _Seen(_digest(read()), generator_states(held.generators))


def _digest(value: Any) -> bytes:
    content = digest(value)
    if content is None:
        raise _DifferenceError(f"values of type {type(value).__name__} can't be compared")
    return content


def _afforded(dataset: Any, indices: Sequence[Any], reads: int, most: int) -> list[Any]:
    """Up to `most` of the indices, evenly over all of them; fewer where samples are slow to read `reads` times."""
    with Held(dataset).kept():
        start = time.perf_counter()
        dataset[indices[0]]
        seconds = time.perf_counter() - start
    affordable = int(AFFORDED_SECONDS / (reads * seconds))
    kept = min(len(indices), most, max(FEWEST_SAMPLES, affordable))
    return [indices[place * len(indices) // kept] for place in range(kept)]
