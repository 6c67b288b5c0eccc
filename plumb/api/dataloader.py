"""`plumb.DataLoader`: torch's loader, run on its plan, which it makes itself if there is none."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch.utils.data import Dataset

from plumb.api.decorator import site_of
from plumb.core.config import Config
from plumb.core.plan import LoaderResult
from plumb.instrument.torch_loader import DataLoader as TorchDataLoader
from plumb.tuning.dataset_settings import Settings, is_off, settings_of

if TYPE_CHECKING:
    from plumb.core.identity import Facts
    from plumb.runtime.guards.plan_fit import PlanFit
    from plumb.runtime.planned_loader import PlannedLoader

T = TypeVar("T", covariant=True)
Tune = bool | Literal["live"]


class DataLoader(TorchDataLoader[T]):
    """Torch's `DataLoader` with one more argument: it runs on the plan for its dataset and this host.

    The plan is looked up when the loader is first iterated. Samples and their order are those of torch's loader. From
    the first epoch on, `num_workers` and the like are the plan's. Settings of `plumb.tuned` for the dataset (a budget,
    limits) apply here too. With the environment variable `PLUMB=off` this is torch's loader and no more.

    Args:
        dataset: A map-style or iterable dataset.
        *args: Other arguments of torch's `DataLoader`, in its order.
        tune: With True, and if there is no plan, the loader is tuned when it is first iterated, once, for half a
            minute: it prints one line, and stores the plan in the user's cache folder (`$XDG_CACHE_HOME/plumb`, else
            `~/.cache/plumb`), so the next run starts at once. False only uses an existing plan. "live" tunes while the
            training goes on; such a loader also has `state_dict()` and `load_state_dict()`, with which a training can
            resume in the middle of an epoch.
        **kwargs: Other arguments of torch's `DataLoader`, by their names.

    Raises:
        ValueError: `tune` is neither True, False nor "live".
        Exception: Whatever torch raises for its arguments.

    >>> import plumb, torch
    >>> loader = plumb.DataLoader(torch.arange(6), batch_size=3, tune=False)
    >>> [batch.tolist() for batch in loader]
    [[0, 1, 2], [3, 4, 5]]
    >>> isinstance(loader, torch.utils.data.DataLoader)
    True
    """

    tunes_itself = True

    # Values until the constructor is done.
    _planned_by: LoaderResult | None = None
    _users: Config | None = None
    _planned: PlannedLoader | None = None
    _has_failed = False
    _own: dict[str, Any] | None = None
    _made_for: Facts | None = None
    _fit: PlanFit | None = None

    def __init__(self, dataset: Dataset[T], *args: Any, tune: Tune = True, **kwargs: Any) -> None:
        if tune not in (True, False, "live"):
            raise ValueError(f'tune={tune!r}: it is True, False or "live"')
        super().__init__(dataset, *args, **kwargs)
        self.tune = tune

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Return the batches of an epoch, as torch's loader delivers them."""
        start = super().__iter__
        if is_off() or self._has_failed:
            return start()
        try:
            return self._planned_epoch(start)
        except Exception as error:
            failure = error
        # If torch's own loader fails as well, the error is the script's.
        self._has_failed = True
        with contextlib.suppress(Exception):
            self._run_plainly()
        batches = start()
        from plumb.instrument import failure_report

        failure_report.say(failure, "the loader runs as its own arguments say", self._planned_by)
        return batches

    def _planned_epoch(self, start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Start the next epoch, on the plan or live."""
        if self.tune == "live" and self._planned_by is None:
            from plumb.tuning.live import live_iterator

            return live_iterator(self)
        from plumb.api.self_tuning import find_or_tune, say

        if self._users is None:
            settings = settings_of(self.dataset) or Settings()
            self.run_on(find_or_tune(self, site_of(self), settings, may_tune=self.tune is True))
        if self._planned_by is None or self._users is None:
            return start()
        if self._planned is None:
            from plumb.runtime.planned_loader import PlannedLoader

            self._planned = PlannedLoader(self, self._planned_by, self._users, self._own)
        if self._fit is None:
            from plumb.runtime.guards.plan_fit import PlanFit

            self._fit = PlanFit(self._planned_by, self._made_for, numbers_count=False)
        misfit = self._fit.misfit(self)
        if misfit:
            where = site_of(self)
            say(f"{where.name} ({where}): {misfit}; from here on it runs as its own arguments say")
            self._run_plainly()
            return start()
        return self._planned.start(self, start, say)

    def __getattr__(self, name: str) -> Any:
        # Frameworks test for these attributes, so only a loader that can resume in the middle of an epoch may have
        # them.
        if name in ("state_dict", "load_state_dict") and self.__dict__.get("tune") == "live":
            from plumb.tuning.live import tuning_of

            return getattr(tuning_of(self), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def run_on(self, planned: LoaderResult | None, made_for: Facts | None = None) -> None:
        """Use a plan from the next epoch on.

        Args:
            planned: The plan; None keeps this loader's own arguments.
            made_for: Facts that the dataset must have in the first epoch, except numbers and sizes; None if they were
                compared already.
        """
        from plumb.runtime.loader import current_config
        from plumb.runtime.loader_attributes import plans_attributes, set_attributes, users_attributes

        own = self._users = current_config(self)
        if planned is None or planned.config == own:
            return
        if planned.unsafe:
            from plumb.api.self_tuning import say

            say(f"{planned.name}: the plan is not used any more: {planned.unsafe}; the loader runs as it is")
            return
        self._own = users_attributes(self, planned.config)
        set_attributes(self, plans_attributes(self, planned.config))
        self._planned_by, self._made_for = planned, made_for

    def _run_plainly(self) -> None:
        """Use this loader's own arguments from now on, without the plan."""
        from plumb.runtime.loader_attributes import set_attributes

        self._planned_by = self._planned = self._fit = None
        # Persistent workers would run on the plan.
        self._iterator = None
        set_attributes(self, self._own or {})

    def check_worker_number_rationality(self) -> None:
        """Print torch's advice on worker counts, which considers cores only, unless the count was measured."""
        if self._planned_by is None:
            super().check_worker_number_rationality()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_planned": None, "_fit": None}


def _signature() -> inspect.Signature:
    """Return torch's own signature, with `tune` at the end."""
    torch = inspect.signature(TorchDataLoader.__init__)
    tune = inspect.Parameter("tune", inspect.Parameter.KEYWORD_ONLY, default=True, annotation=Tune)
    # A library may have wrapped torch's constructor behind `**kwargs`, which come last.
    parameters = sorted([*torch.parameters.values(), tune], key=lambda each: each.kind)
    return torch.replace(parameters=parameters)


vars(DataLoader)["__init__"].__signature__ = _signature()
