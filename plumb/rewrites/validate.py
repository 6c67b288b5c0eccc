"""Validation of rewrites on the user's own samples before they are offered.

Each function returns None if it found no difference, otherwise one short reason. Every failure is a reason.
"""

from __future__ import annotations

import operator
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from plumb.core.config import Cut
from plumb.core.errors import PlumbError
from plumb.instrument.dataset_objects import DatasetObjects
from plumb.instrument.recorder import SAMPLE
from plumb.instrument.rng_state import generator_states
from plumb.instrument.values import digest
from plumb.runtime.replay.replay import Replay, ReplayError
from plumb.runtime.replay.skipped_value import SkippedUsed
from plumb.runtime.replay.substitution import SubstitutingRecorder, Tree

MOST_SAMPLES = 8
FEWEST_SAMPLES = 3
AFFORDED_SECONDS = 8.0
READS_FOR_A_CUT = 10


class DifferenceError(PlumbError):
    """A difference made by a rewrite. The message is the reason against it."""


def validate_cut(dataset: Any, cut: Cut, indices: Sequence[Any]) -> str | None:
    """Return the reason if samples are not equal, bit for bit, when the cut's value is kept, made ahead, and given.

    Tries up to eight of `indices`, spread over all, and fewer if samples are slow; with several states of the random
    generators and in two orders. The random numbers that the rest of a sample draws must be the same, too, and skipped
    calls must not change the dataset. The generators are restored.
    """
    return reason_of(
        lambda: _check_cut(dataset, cut, affordable_indices(dataset, indices, READS_FOR_A_CUT, MOST_SAMPLES))
    )


def reason_of(check: Callable[[], None]) -> str | None:
    """Run a check, and return its error in one line; None without an error."""
    try:
        check()
    except DifferenceError as found:
        return str(found)
    except (ReplayError, SkippedUsed) as error:
        return str(error) or "what was skipped is looked at"
    except Exception as error:
        return f"it raised {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return None


def _check_cut(dataset: Any, cut: Cut, indices: list[Any]) -> None:
    held = DatasetObjects(dataset)
    replay = Replay(dataset, cut)
    with held.kept():
        for index in indices:
            dataset[index]  # what is opened at the first access is open from here on
        for index in indices:
            _check_changes(dataset, cut, held, index)
        stored = [_check_sample(replay, held, index, seed) for seed, index in enumerate(indices)]
        _check_in_another_order(replay, held, indices[::-1], stored[::-1])


def _check_changes(dataset: Any, cut: Cut, held: DatasetObjects, index: Any) -> None:
    """Raise DifferenceError if a call that would be skipped changes the dataset's objects, or draws random numbers."""
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
        recorder = SubstitutingRecorder(tree, dict.fromkeys(tree.nodes.values(), watched))
        with recorder:
            recorder.enter(SAMPLE, operator.getitem, dataset, index)
    for changed in filter(None, found):
        raise DifferenceError(f"{changed} changes before the end of {cut.after}")


@dataclass(frozen=True)
class _SampleDigest:
    """A sample's digest, and the states of the random generators after it."""

    digest: bytes
    states: tuple[Any, ...]


@dataclass(frozen=True)
class _Stored:
    """A cut's value as in a store, and its digest."""

    pickled: bytes
    digest: bytes

    def value(self) -> Any:
        return pickle.loads(self.pickled)


def _check_sample(replay: Replay, held: DatasetObjects, index: Any, seed: int) -> _Stored:
    """Return the cut's value; raise DifferenceError if keeping or giving it changes a sample."""
    stored: list[_Stored] = []

    def keep(value: Any) -> None:
        stored.append(_Stored(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL), digest_of(value)))

    plain = _seen(held, seed, lambda: replay.dataset[index])
    if plain != _seen(held, seed, lambda: replay.dataset[index]):
        raise DifferenceError("samples differ when they are read twice under the same random numbers")
    if plain != _seen(held, seed, lambda: replay.sample_keeping(index, keep)):
        raise DifferenceError("samples differ when the value is kept")
    if digest_of(stored[0].value()) != stored[0].digest:
        raise DifferenceError("the value is not the same once it was stored")
    if plain != _seen(held, seed, lambda: replay.sample_from(index, stored[0].value())):
        raise DifferenceError("samples differ when they are made from the stored value")
    return stored[0]


def _check_in_another_order(replay: Replay, held: DatasetObjects, indices: list[Any], stored: list[_Stored]) -> None:
    """Raise DifferenceError if another state of the random generators, or another previous sample, matters."""
    seeds = range(len(indices), 2 * len(indices))
    for seed, index, kept in zip(seeds, indices, stored, strict=True):
        held.seed(seed)
        states = generator_states(held.generators)
        if _seen(held, seed, partial(replay.prefix, index)) != _SampleDigest(kept.digest, states):
            raise DifferenceError("the value depends on more than the index")
    plain = [
        _seen(held, seed, partial(operator.getitem, replay.dataset, index))
        for seed, index in zip(seeds, indices, strict=True)
    ]
    samples = []
    for seed, index, kept, expected in zip(seeds, indices, stored, plain, strict=True):
        held.seed(seed)
        samples.append(replay.sample_from(index, kept.value()))
        if expected != _SampleDigest(digest_of(samples[-1]), generator_states(held.generators)):
            raise DifferenceError("samples differ when they are made from a value stored under other random numbers")
    for index, kept in zip(indices, stored, strict=True):
        replay.sample_from(index, kept.value())
    if [digest_of(sample) for sample in samples] != [expected.digest for expected in plain]:
        raise DifferenceError("a sample changes when another one is made")


def _seen(held: DatasetObjects, seed: int, read: Callable[[], Any]) -> _SampleDigest:
    held.seed(seed)
    return _SampleDigest(digest_of(read()), generator_states(held.generators))


def digest_of(value: Any) -> bytes:
    """Return the digest of a value; raise DifferenceError if its content can't be compared."""
    content = digest(value)
    if content is None:
        raise DifferenceError(f"values of type {type(value).__name__} can't be compared")
    return content


def affordable_indices(dataset: Any, indices: Sequence[Any], reads: int, most: int) -> list[Any]:
    """Return up to `most` of the indices, evenly spread; fewer if samples are slow to read `reads` times."""
    with DatasetObjects(dataset).kept():
        start = time.perf_counter()
        dataset[indices[0]]
        seconds = time.perf_counter() - start
    affordable = int(AFFORDED_SECONDS / (reads * seconds))
    kept = min(len(indices), most, max(FEWEST_SAMPLES, affordable))
    return [indices[place * len(indices) // kept] for place in range(kept)]
