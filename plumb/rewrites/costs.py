"""Costs and savings of rewrites: stores, deferred operators, and both, timed together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.config import Deferral
from plumb.core.errors import one_line
from plumb.instrument.opened_files import reads_unseen
from plumb.model.inputs import CutCost, DeferralCost
from plumb.rewrites.batch_maker import NotDeferredError
from plumb.rewrites.find_cuts import CutCandidate
from plumb.rewrites.find_deferrals import FoundDeferral
from plumb.rewrites.savings import (
    MOST_TURNS,
    SampleStore,
    Savings,
    fill_store,
    measure_savings,
    plain_loads,
    rewritten_loads,
)
from plumb.runtime.fetch import Fetch
from plumb.runtime.replay.replay import Replay
from plumb.runtime.store.fingerprint import fingerprint_of_part
from plumb.tracing.pipeline import Pipeline

# A store saves nothing if it leaves more than this share of a sample's CPU seconds, and all of its waiting.
_SAVES_NOTHING = 0.95
# Waiting that is a smaller share of a sample's time, or of a store's savings, is not worth a store.
_WORTH_STORING = 0.1
# Largest number of values to store and read for the timing, and the batch size if the loader has none.
_TIMED_VALUES, TIMED_BATCH = 64, 32
_TIMED_SHARE, _STORED_SHARE = 0.6, 0.1
FEWEST_SAMPLES = 2
"""Fewer samples than this are not compared."""

Affordable = Callable[[int, int, float], int]
"""Returns how many samples, up to a number, can be loaded a number of times in a share of the remaining time."""


@dataclass(frozen=True)
class RewriteCosts:
    """Costs of the rewrites worth offering, and the reasons against the others."""

    cuts: tuple[CutCost, ...] = ()
    deferrals: tuple[DeferralCost, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class _CostedStore:
    """A cut, and some of its values in a store."""

    found: CutCandidate
    filled: SampleStore

    @property
    def after(self) -> str:
        return self.found.cut.after

    @property
    def saved_seconds(self) -> float:
        """Seconds that reading a value saves over making it; negative if it takes longer."""
        return self.found.prefix_seconds - self.filled.read_seconds

    @property
    def fetch(self) -> Fetch:
        return Fetch(cut=self.found.cut, spec=self.filled.stored.spec, is_frozen=True)


def rewrite_costs(
    loader: DataLoader[Any],
    indices: Sequence[Any],
    cuts: Sequence[CutCandidate],
    pipeline: Pipeline,
    deferral: FoundDeferral | None,
    affordable: Affordable,
) -> RewriteCosts:
    """Measure the costs and savings of stores at `cuts` and of deferred operators, on whole batches.

    An error of the user's code becomes a reason against the rewrite.

    Args:
        loader: The loader.
        indices: Samples to use.
        cuts: Valid cuts.
        pipeline: Traced operators of a sample.
        deferral: Operators that may be deferred; None if there are none.
        affordable: Number of samples for which there is time.
    """
    if not cuts and deferral is None:
        return RewriteCosts()
    reasons = []
    if cuts:
        indices = indices[: max(FEWEST_SAMPLES, affordable(_TIMED_VALUES, len(cuts), _STORED_SHARE))]
    stored = [_stored(loader, cut, indices) for cut in cuts]
    stores = [store for store in stored if isinstance(store, _CostedStore)]
    # Each store is timed twice if there are deferred operators.
    left = [max(0.0, 1.0 - store.saved_seconds / pipeline.sample_seconds) for store in stores]
    rewritten = (2 * sum(left) + 1) if deferral else sum(left)
    batches, turns = _timed_batches(loader, indices, rewritten, affordable)
    if deferral and not batches:
        reasons.append("nothing is computed on whole batches instead: there was no time to see what that saves")
        deferral = None
    batches = batches or [indices[:FEWEST_SAMPLES]]
    fetches = dict(_fetches(stores, deferral.deferral if deferral else None))
    try:
        saved = measure_savings(loader, fetches, batches, turns)
    except Exception as error:
        return RewriteCosts(
            reasons=(*reasons, f"nothing is stored, and nothing computed on whole batches: {one_line(error)}")
        )
    found = [
        _cut_cost(loader, store, saved[store.after, False], saved.get((store.after, True)), pipeline, indices)
        for store in stores
    ]
    cut_costs = [cost for cost in found if isinstance(cost, CutCost)]
    deferral_costs = [_deferral_cost(deferral, saved[None, True])] if deferral else []
    reasons += [refused for refused in [*stored, *found, *deferral_costs] if isinstance(refused, str)]
    reasons += [
        f"nothing is stored on the disk after {cost.after}: what it reads is not opened by Python, so a change of it "
        "would go unnoticed"
        for cost in cut_costs
        if not cost.outlives
    ]
    known = tuple(cost for cost in deferral_costs if isinstance(cost, DeferralCost))
    return RewriteCosts(tuple(cut_costs), known, tuple(reasons))


def _fetches(
    stores: Sequence[_CostedStore], deferral: Deferral | None
) -> Iterator[tuple[tuple[str | None, bool], Fetch]]:
    """Yield each rewrite with its key: the operator whose output is stored (or None), and whether it defers."""
    for store in stores:
        yield (store.after, False), store.fetch
        if deferral:
            yield (store.after, True), replace(store.fetch, deferral=deferral)
    if deferral:
        yield (None, True), Fetch(deferral=deferral)


def _stored(loader: DataLoader[Any], found: CutCandidate, indices: Sequence[Any]) -> _CostedStore | str:
    """Return a store with the cut's values of these samples, or the reason why there is none."""
    if fingerprint_of_part(loader.dataset, found.cut) != fingerprint_of_part(loader.dataset, found.cut):
        return f"nothing is stored after {found.cut.after}: the dataset's state can't be told from another"
    try:
        store = fill_store(loader.dataset, found.cut, indices[:_TIMED_VALUES])
    except Exception as error:
        return f"nothing is stored after {found.cut.after}: {one_line(error)}"
    if store is None:
        return f"nothing is stored after {found.cut.after}: it would take none of the values"
    timed = _CostedStore(found, store)
    return timed if timed.saved_seconds > 0 else _saves_nothing(found.cut.after)


def _cut_cost(
    loader: DataLoader[Any],
    store: _CostedStore,
    alone: Savings | Exception,
    together: Savings | Exception | None,
    pipeline: Pipeline,
    indices: Sequence[Any],
) -> CutCost | str:
    """Return the cost of a store, or the reason why it is not offered."""
    found, after = store.found, store.after
    if isinstance(alone, Exception):
        return f"nothing is stored after {after}: {_reason(alone)}"
    wait_share = min(1.0, found.prefix_wait_seconds / max(pipeline.sample_wait_seconds, 1e-9))
    if min(alone.left.plainly, alone.left.reusing) >= _SAVES_NOTHING and wait_share < _WORTH_STORING:
        return _saves_nothing(after)
    return CutCost(
        after,
        store.filled.value_bytes,
        alone.left,
        wait_share,
        store.filled.write_seconds,
        _may_outlive(loader.dataset, found, indices),
        together.left if isinstance(together, Savings) else None,
    )


def _may_outlive(dataset: Any, found: CutCandidate, indices: Sequence[Any]) -> bool:
    """Return whether a store at a cut may serve later runs: only if changes of the files behind it would be noticed."""
    waits = found.prefix_wait_seconds >= _WORTH_STORING * found.prefix_seconds
    return not reads_unseen(Replay(dataset, found.cut).prefix, indices[:FEWEST_SAMPLES], waits)


def _deferral_cost(found: FoundDeferral, saved: Savings | Exception) -> DeferralCost | str:
    """Return the cost of deferred operators, or the reason why they are not offered."""
    if isinstance(saved, Exception):
        return f"nothing is computed on whole batches instead: {_reason(saved)}"
    assert found.deferral is not None
    operators = tuple(step.operator for step in found.deferral.steps)
    return DeferralCost(operators, saved.left, saved.main_seconds, saved.main_seconds_reusing, found.saved_bytes)


def _reason(error: Exception) -> str:
    return "whole batches take another way" if isinstance(error, NotDeferredError) else one_line(error)


def _saves_nothing(after: str) -> str:
    return f"nothing is stored after {after}: to read a value takes as long as to make it"


def _timed_batches(
    loader: DataLoader[Any], indices: Sequence[Any], rewritten: float, affordable: Affordable
) -> tuple[list[Sequence[Any]], int]:
    """Return whole batches of a few samples, and the number of turns of them for which there is time.

    If there is no time for a whole batch, it is a part of one; none if that would have too few samples. All rewrites of
    the batches together take `rewritten` times as long as making them plainly.
    """

    def loads(turns: int) -> int:
        return plain_loads(turns) + math.ceil(rewritten * rewritten_loads(turns))

    size = loader.batch_size or min(len(indices), TIMED_BATCH)
    wanted = max(1, _TIMED_VALUES // size) * size
    whole = (turns for turns in range(MOST_TURNS, 1, -1) if affordable(size, loads(turns), _TIMED_SHARE) == size)
    turns = next(whole, 1)
    samples = affordable(wanted, loads(turns), _TIMED_SHARE)
    samples -= samples % size if samples >= size else 0
    if samples < FEWEST_SAMPLES:
        return [], turns
    taken = list(islice(cycle(indices[:_TIMED_VALUES]), samples))
    return [taken[start : start + size] for start in range(0, samples, size)], turns
