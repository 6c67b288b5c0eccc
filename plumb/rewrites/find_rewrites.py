"""Search for rewrites of how a loader makes its samples, validated on the user's own data.

Only tested rewrites are offered. Each search and each validation loads samples, so all share the available time, and
the most promising comes first.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from plumb.core.config import Cut, Deferral, Rewrites
from plumb.core.device_profile import DeviceProfile
from plumb.core.errors import one_line
from plumb.core.plan import SampleCost
from plumb.core.units import format_seconds
from plumb.host.forked_trial import in_spawned_child
from plumb.instrument.picklability import why_not_spawned
from plumb.instrument.rng_state import restored_generators
from plumb.model.concurrency_climb import SourceCapacity
from plumb.model.inputs import CutCost, DeferralCost, StorageBandwidth, ThreadsCost
from plumb.rewrites.costs import FEWEST_SAMPLES, RewriteCosts, rewrite_costs
from plumb.rewrites.find_cuts import CutCandidate, find_cuts
from plumb.rewrites.find_deferrals import FoundDeferral, find_deferral
from plumb.rewrites.find_table_batches import WholeBatches, whole_batches
from plumb.rewrites.thread_offers import READS_AT_MOST, ThreadSearch, TimeLeft, has_waits
from plumb.rewrites.thread_validation import InProcess, process_for_trials
from plumb.rewrites.validate import validate_cut
from plumb.rewrites.validate_deferral import try_out
from plumb.runtime.loader import NO_REWRITES, current_config
from plumb.runtime.unchecked_loaders import why_unchecked
from plumb.tracing.device.profile import profile_device
from plumb.tracing.pipeline import Pipeline
from plumb.tracing.sample_source import TraceTimeError
from plumb.tracing.tracer import TracedPipeline, trace

_TRACED_SAMPLES, _FEWEST_TRACED = 16, 3
# Largest number of loads per sample, in a trace, in the search for cuts, and in a rewrite's validation.
_TRACE_LOADS, _CUT_LOADS, _DEFERRAL_LOADS = 10, 11, 13
_CUT_SAMPLES, _DEFERRAL_SAMPLES = 8, 8
_MOST_CUTS = 3
# A trace is begun if it takes at most the first share of the remaining time, and abandoned once it took the second.
_TRACED_SHARE, _TRACED_AT_MOST = 0.4, 0.6
# But a trace gets at least this many seconds, even if the budget is short.
_TRACED_SECONDS, _AFTER_TRACE_SHARE = 1.5, 0.4
# A process may try a rewrite for this share of the remaining time, but at least for so long. A spawned one first
# imports everything again.
_TRIED_SHARE, _SHORTEST_TRIAL_SECONDS, _SPAWN_SECONDS = 0.6, 5.0, 8.0
# A forked process hangs if it takes longer than this for one sample, or than this multiple of this process's time.
_ONE_SAMPLE_SECONDS, _ONE_SAMPLE_LOADS = 2.0, 20
_PLAIN = "samples are left as they are: torch's own arguments alone were asked for"


@dataclass(frozen=True)
class AvailableRewrites:
    """Rewrites that leave the data unchanged, their costs, and the operators of a sample."""

    rewrites: Rewrites = NO_REWRITES
    cuts: tuple[CutCost, ...] = ()
    deferrals: tuple[DeferralCost, ...] = ()
    threads: tuple[ThreadsCost, ...] = ()
    storage: StorageBandwidth | None = None
    pipeline: Pipeline | None = None
    device: DeviceProfile | None = None
    whole_batches: WholeBatches | None = None
    source: SourceCapacity | None = None


def find_rewrites(
    loader: DataLoader[Any],
    cost: SampleCost,
    indices: Sequence[Any],
    seconds: float,
    target: torch.device | None = None,
    may_use_gpu: bool = True,
    may_use_workers: bool = True,
    forget_opened: Callable[[], None] | None = None,
    plain: bool = False,
    reads_at_most: int = READS_AT_MOST,
) -> AvailableRewrites:
    """Find the rewrites for a loader, tried on some samples, within about `seconds`.

    What doesn't fit into the time is left out. The process's random generators are restored. An error of the user's
    code becomes a reason against the rewrite.

    Args:
        loader: The loader.
        cost: Cost of its samples.
        indices: Samples to try.
        seconds: Time to take.
        target: Device on which deferred operators may run if results are equal there; None for the CPU.
        may_use_gpu: Whether operators are profiled on a GPU, which a forked process must not do.
        may_use_workers: Whether there can be workers. Only without them, threads are tried for samples that merely
            compute, because workers share the cores without a common lock.
        forget_opened: Undoes what this process opened in the dataset, before a forked process tries threads.
        plain: Whether to trace only, and offer no rewrite.
        reads_at_most: Largest number of samples to read at once, to see how many their source holds.
    """
    search = _RewriteSearch(loader, cost, indices, time.perf_counter() + seconds, target, forget_opened)
    with restored_generators():
        traced = search.traced()
        # Even if the trace used up a short budget, its results must still be tried.
        search.deadline = max(search.deadline, time.perf_counter() + _AFTER_TRACE_SHARE * seconds)
        if isinstance(traced, str):
            return AvailableRewrites(Rewrites(reasons=(traced,)))
        device = profile_device(loader, traced.pipeline, deadline=search.deadline) if may_use_gpu else None
        reason = _PLAIN if plain else search.unfit()
        if reason:
            return AvailableRewrites(Rewrites(reasons=(reason,)), pipeline=traced.pipeline, device=device)
        whole = search.whole_batches()
        # The most promising rewrite comes first: threads, if samples wait and their waits can overlap.
        waits, sharing = has_waits(traced.pipeline), search.threads(reads_at_most)
        threads = sharing.whole(traced.pipeline) if waits else ()
        cuts = search.cuts(traced)
        if waits:
            threads = threads or sharing.until(traced.pipeline, cuts)
        deferral = search.deferral()
        costs = search.costs(cuts, traced.pipeline, deferral)
        if not waits and not may_use_workers:
            threads = sharing.whole(traced.pipeline) or sharing.until(traced.pipeline, cuts)
    rewrites = Rewrites(
        cuts=tuple(found.cut for found in cuts),
        deferral=deferral.deferral if deferral and costs.deferrals else None,
        threads_until=tuple(dict.fromkeys(found.until or "" for found in threads)),
        reasons=tuple(search.reasons),
        summary="; ".join(search.compared),
    )
    deferrals = (*costs.deferrals, *(whole.costs if whole else ()))
    source, storage = sharing.source, sharing.storage()
    return AvailableRewrites(rewrites, costs.cuts, deferrals, threads, storage, traced.pipeline, device, whole, source)


class _RewriteSearch:
    """State of one search: `reasons` against rewrites, and in `compared` what was found to be equal."""

    def __init__(
        self,
        loader: DataLoader[Any],
        cost: SampleCost,
        indices: Sequence[Any],
        deadline: float,
        target: torch.device | None,
        forget_opened: Callable[[], None] | None,
    ) -> None:
        self.reasons: list[str] = []
        self.compared: list[str] = []
        self._loader = loader
        self._dataset = loader.dataset
        self._cost = cost
        self._indices = list(dict.fromkeys(indices)) if all(map(_is_hashable, indices)) else list(indices)
        self.deadline = deadline
        self._target = target
        self._forget_opened = forget_opened

    def unfit(self) -> str | None:
        """Return why samples of this loader can't be rewritten; None if they can."""
        if isinstance(self._dataset, IterableDataset):
            return "samples are left as they are: they come as a stream, and none can be read a second time to compare"
        if self._loader.batch_sampler is None:
            return "samples are left as they are: the dataset makes its own batches"
        unchecked = why_unchecked(self._loader, current_config(self._loader))
        if unchecked:
            return (
                f"samples are left as they are: their batches could not be checked while the script runs ({unchecked})"
            )
        if len(self._indices) < FEWEST_SAMPLES:
            return "samples are left as they are: there are too few of them to compare"
        return None

    def traced(self) -> TracedPipeline | str:
        """Return the loader's operators, or the reason why they are unknown."""
        samples = self._affordable(_TRACED_SAMPLES, _TRACE_LOADS, share=_TRACED_SHARE)
        if samples < _FEWEST_TRACED:
            return self._no_time_to("trace the operators", _FEWEST_TRACED * _TRACE_LOADS / _TRACED_SHARE)
        try:
            until = time.perf_counter() + max(_TRACED_AT_MOST * self._left, _TRACED_SECONDS)
            return trace(self._loader, samples, deadline=until)
        except TraceTimeError:
            return (
                "the operators were not traced: there was not enough time to follow all calls of a sample; allow more, "
                "with --budget or budget="
            )
        except Exception as error:
            return f"the operators could not be traced ({one_line(error)})"

    def cuts(self, traced: TracedPipeline) -> list[CutCandidate]:
        """Return the valid cuts that save most, without those whose savings another one includes."""
        try:
            found = find_cuts(traced)
        except Exception as error:
            self.reasons.append(f"nothing is stored: {one_line(error)}")
            return []
        self.reasons += found.reasons
        valid: list[CutCandidate] = []
        for candidate in found.candidates:
            if any(other.saves_all_of(candidate) for other in valid):
                continue
            samples = self._affordable(_CUT_SAMPLES, _CUT_LOADS, share=0.4)
            if samples < FEWEST_SAMPLES or len(valid) == _MOST_CUTS:
                break
            reason = self._reason_against(candidate.cut, self._indices[:samples])
            if reason:
                self.reasons.append(f"nothing is stored after {candidate.cut.after}: {reason}")
            else:
                valid.append(candidate)
                self.compared.append(f"{samples} samples with the stored result of {candidate.cut.after}")
        return valid

    def _reason_against(self, cut: Cut, indices: Sequence[Any]) -> str | None:
        process = self._process_for_trials
        if isinstance(process, str) or process is in_spawned_child:
            return validate_cut(self._dataset, cut, indices)
        outcome = process(partial(validate_cut, self._dataset, cut, indices), self._trial_seconds)
        reason: str | None = outcome.value
        return f"making samples of its values {outcome.reason}" if outcome.reason else reason

    def deferral(self) -> FoundDeferral | None:
        """Return the last operators if they have the same effect on a batch, else None."""
        samples = self._affordable(_DEFERRAL_SAMPLES, _DEFERRAL_LOADS, share=0.4)
        if samples < FEWEST_SAMPLES:
            return None
        try:
            found = find_deferral(self._dataset, self._loader.collate_fn, self._indices[:samples])
        except Exception as error:
            self.reasons.append(f"nothing is computed on whole batches instead: {one_line(error)}")
            return None
        if found.deferral is None:
            self.reasons.append(f"nothing is computed on whole batches instead: {found.reason}")
            return None
        self.compared.append(f"{samples} samples with {found.names} on batches")
        return self._on_target(found, found.deferral, samples)

    def _on_target(self, found: FoundDeferral, deferral: Deferral, samples: int) -> FoundDeferral:
        """Return the operators on the device for batches if that changes no value, else unchanged."""
        if self._target is None:
            return found
        there = dataclasses.replace(deferral, device=str(self._target))
        try:
            reason = try_out(there, self._dataset, self._loader.collate_fn, self._indices[:samples])
        except Exception as error:
            reason = one_line(error)
        if reason:
            self.reasons.append(f"{found.names} on batches, but not on {self._target}: {reason}")
            return found
        self.compared.append(f"the same on {self._target}")
        return dataclasses.replace(found, deferral=there)

    def whole_batches(self) -> WholeBatches | None:
        process = self._process_for_trials
        if isinstance(process, str) or process is in_spawned_child:
            return None
        return whole_batches(self._loader, self._indices, self._cost.wall_seconds, process)

    def threads(self, reads_at_most: int) -> ThreadSearch:
        """Part of this search that is about threads."""
        left = TimeLeft(lambda: self._left, self._affordable, lambda: self._trial_seconds)
        return ThreadSearch(
            self._loader,
            self._cost,
            self._indices,
            left,
            lambda: self._process_for_trials,
            reads_at_most,
            self.reasons,
            self.compared,
        )

    @property
    def _trial_seconds(self) -> float:
        return max(_SHORTEST_TRIAL_SECONDS, _TRIED_SHARE * self._left)

    @functools.cached_property
    def _process_for_trials(self) -> InProcess | str:
        """Function that tries something in a process of its own, or the reason why none can."""
        seconds = max(_ONE_SAMPLE_SECONDS, _ONE_SAMPLE_LOADS * self._cost.wall_seconds)
        return process_for_trials(self._dataset, self._indices[0], seconds, self._forget_opened, self._why_not_spawned)

    def _why_not_spawned(self) -> str | None:
        """Return why a spawned process can't try the dataset; None if it can."""
        return "there is no time to start another one" if self._left < _SPAWN_SECONDS else why_not_spawned(self._loader)

    def costs(self, cuts: Sequence[CutCandidate], pipeline: Pipeline, deferral: FoundDeferral | None) -> RewriteCosts:
        """Return the costs and savings of stores and deferred operators."""
        costs = rewrite_costs(self._loader, self._indices, cuts, pipeline, deferral, self._affordable)
        self.reasons += costs.reasons
        return costs

    def _no_time_to(self, what: str, samples: float) -> str:
        """Return a reason that there was no time for something that reads `samples` samples, and the time it takes."""
        needed, left = samples * self._cost.wall_seconds, self._left
        return (
            f"there was no time to {what}: that takes about {format_seconds(needed)}, and {format_seconds(left)} were "
            "left; allow more, with --budget or budget="
        )

    @property
    def _left(self) -> float:
        return max(0.0, self.deadline - time.perf_counter())

    def _affordable(self, samples: int, loads: int, share: float) -> int:
        """Return how many samples, up to `samples`, can be loaded `loads` times in a share of the remaining time."""
        return min(samples, int(share * self._left / loads / max(self._cost.wall_seconds, 1e-9)))


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
