"""Comparison of a loader with its plan, at the start of each epoch, before anything is started."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from plumb.core.identity import Facts
from plumb.core.plan import LoaderResult
from plumb.instrument.identity_difference import change_in_a_run, difference_of_facts, without_numbers
from plumb.instrument.identity_of_loader import facts_of_loader


class PlanFit:
    """Comparison of a loader's dataset with the plan's, and later with its own state in the first epoch.

    A configuration of torch's own arguments fits a dataset with the same code, whatever its flags. One that makes
    samples in another way (a store, threads, operators on batches), or shares a stream among a different number of
    workers, also needs the same flags, numbers and texts, and is given up if the script changes code or flags between
    two epochs. Numbers may change: an epoch's, for example. `made_for` are the facts that the plan was made for, None
    if they need no comparison. With `numbers_count=False`, numbers and sizes may differ from these.
    """

    def __init__(self, planned: LoaderResult, made_for: Facts | None, numbers_count: bool = True) -> None:
        self._rewrites = rewrites_samples(planned)
        self._planned = made_for
        self._numbers_count = numbers_count
        self._first: Facts | None = None
        self._was_asked = False

    def misfit(self, loader: DataLoader[Any], facts: Facts | None = None) -> str:
        """Return why the plan doesn't fit `loader` any more, in words that follow its name; empty if it fits.

        `facts` are the present facts about its dataset, None to look them up.
        """
        if not self._rewrites and (self._was_asked or self._planned is None):
            return ""
        now = facts or facts_of_loader(loader)
        if now is None:
            return "what its dataset is made of can't be told" if self._rewrites else ""
        if self._was_asked:
            assert self._first is not None
            return change_in_a_run(self._first, now)
        self._was_asked, self._first = True, now
        if self._planned is None:
            return ""
        then = self._planned
        if not self._numbers_count:
            then, now = without_numbers(then), without_numbers(now)
        return difference_of_facts(then, now, values_count=self._rewrites)


def rewrites_samples(planned: LoaderResult) -> bool:
    """Return whether samples are made in another way than by the script, apart from the number of workers."""
    return planned.config.rewrites_samples or planned.shares_samples
