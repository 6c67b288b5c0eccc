"""Tuning from within Python: `plumb.tune`, and the plan that it returns."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumb.api.argument_checks import Size, check_dataset, folder_of, limits_of
from plumb.core import plan
from plumb.core.config import Config
from plumb.core.plan import Measured, Plan, PlanError, Prediction
from plumb.core.units import is_number
from plumb.instrument.call_site import Site, find_site
from plumb.instrument.torch_loader import DataLoader as TorchDataLoader
from plumb.tuning.dataset_settings import Settings

if TYPE_CHECKING:
    import networkx as nx

    from plumb.api.dataloader import DataLoader
    from plumb.host import Limits


def tune(
    dataset_or_loader: Any,
    *,
    batch_size: int | None = None,
    step: Callable[[Any], object] | float | None = None,
    limits: Limits | None = None,
    budget: float = 30.0,
    cpus: float | None = None,
    memory: Size | None = None,
    max_workers: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    plain: bool = False,
    **loader_args: Any,
) -> LoaderPlan:
    """Find the best way to load a dataset on this host, in about `budget` seconds, and explain it.

    The loader's present configuration is the baseline; nothing is proposed that was not measured to be better. Tuning
    runs in this process, also in a notebook, and restores random generators, samplers and the dataset's attributes. A
    stream that can be read only once is read.

    Args:
        dataset_or_loader: A dataset, or one of torch's loaders.
        batch_size: Samples per batch of a dataset's loader; None for torch's default.
        step: Consumer of the data: a callable that takes a batch and does what your training step does with it, or the
            rate of your step in samples/s. With it, plumb stops at the cheapest configuration that keeps the step
            busy; with None, it searches for the highest rate.
        limits: Limits that may be lower than the host's, for instance `plumb.Limits(open_files=256)`; None for the
            host's. The most usual ones have arguments of their own:
        budget: Seconds of tuning.
        cpus: Use no more CPUs than this.
        memory: Use no more memory than this, as text with a unit such as "8GiB", or in bytes.
        max_workers: Start no more workers than this.
        cache_dir: Folder in which samples may be stored as well; None for memory alone.
        plain: Whether to tune only torch's own arguments, which need no plumb afterwards. Otherwise the plan's `plain`
            has the best of them.
        **loader_args: Other arguments of torch's `DataLoader` for a dataset (`shuffle`, `collate_fn` and so on).

    Returns:
        The plan, which makes loaders and explains itself. Its rates are in samples/s.

    Raises:
        TypeError: An argument is of a wrong class, or the arguments don't go together.
        ValueError: A number can't be meant, such as a budget or a rate that is not above 0.
        plumb.core.errors.TuningError: Nothing can be measured, or the limits are too low; the message is one line.
        Exception: Whatever torch, the dataset or the step itself raises.

    >>> import plumb, torch
    >>> class Squares(torch.utils.data.Dataset):
    ...     def __len__(self):
    ...         return 256
    ...     def __getitem__(self, index):
    ...         return torch.full((100,), float(index)) ** 2
    >>> plan = plumb.tune(Squares(), batch_size=32, shuffle=True, step=100_000.0, budget=1)
    >>> plan.tuned.samples_per_second >= plan.baseline.samples_per_second
    True
    >>> loader = torch.utils.data.DataLoader(
    ...     Squares(), batch_size=32, shuffle=True, **plan.plain.config.loader_arguments()
    ... )
    """
    from plumb.api.in_process import tune_here

    check_dataset(dataset_or_loader, "plumb.tune")
    asked = limits_of(limits, cpus=cpus, memory=memory, max_workers=max_workers)
    settings = Settings(budget, asked, plain=plain, cache_folder=folder_of("cache_dir", cache_dir))
    _check_step(step)
    loader = _loader(dataset_or_loader, batch_size, loader_args)
    site = find_site(sys._getframe(1))
    named = Site(site.file, site.line, type(loader.dataset).__name__)
    return LoaderPlan(tune_here(loader, named, settings.options(), step))


def _check_step(step: Any) -> None:
    if step is None or callable(step):
        return
    if not is_number(step):
        raise TypeError(
            f"step={step!r}: give the function that trains on a batch, or its rate in samples/s, such as step=2600.0"
        )
    if not 0 < step < math.inf:
        raise ValueError(f"step={step!r}: it is a callable, or a finite number of samples/s above 0")


def _loader(given: Any, batch_size: int | None, loader_args: dict[str, Any]) -> TorchDataLoader[Any]:
    """Return the loader to tune: the given one, or a new one for the dataset."""
    from plumb.runtime.loader import TorchsLoader

    if isinstance(given, TorchDataLoader):
        if batch_size is not None or loader_args:
            named = ", ".join([*(["batch_size"] if batch_size is not None else []), *loader_args])
            raise TypeError(
                f"plumb.tune was given a loader and {named}: a loader has its own; give its dataset instead"
            )
        return given
    return TorchsLoader(given, **(loader_args if batch_size is None else {**loader_args, "batch_size": batch_size}))


@dataclass(frozen=True, repr=False)
class LoaderPlan:
    """Plan for loading a dataset on this host, with its reasons.

    Attributes:
        found: The plan as it is written to its file, with one loader.

    >>> import plumb, torch
    >>> plan = plumb.tune(torch.rand(512, 8), batch_size=64, budget=1)
    >>> loader = plan.loader(torch.rand(512, 8), batch_size=64)
    >>> sum(len(batch) for batch in loader)
    512
    >>> import dataclasses
    >>> dataclasses.asdict(plan.config)["in_order"]
    True
    """

    found: Plan

    @classmethod
    def load(cls, path: str | os.PathLike[str], name: str | None = None) -> LoaderPlan:
        """Read a plan from a file that `save` or `plumb tune` wrote.

        Args:
            path: The file.
            name: Name of the loader in the file; None if it has only one.

        Returns:
            The plan for that loader.

        Raises:
            plumb.core.plan.PlanError: There is no such plan; the message is one line.
        """
        found = plan.read(Path(path))
        named = [each for each in found.loaders if name is None or each.name == name]
        if len(named) != 1:
            known = ", ".join(each.name for each in found.loaders) or "none"
            raise PlanError(f"{os.fspath(path)}: name one of its loaders: {known}")
        return cls(dataclasses.replace(found, loaders=(named[0],)))

    @property
    def entry(self) -> plan.LoaderResult:
        """All results for this loader, as in the plan file."""
        return self.found.loaders[0]

    @property
    def config(self) -> Config:
        """Configuration to use, a plain dataclass with `loader_arguments()` for torch's own `DataLoader`."""
        return self.entry.config

    @property
    def baseline(self) -> Measured:
        """Configuration that the loader had before, and its rate in samples/s."""
        return self.entry.baseline

    @property
    def tuned(self) -> Measured:
        """Best configuration, and its rate in samples/s; the baseline itself if nothing is better."""
        return self.entry.tuned

    @property
    def plain(self) -> Measured:
        """Best of torch's own arguments alone, for a loader without plumb; the baseline if none is better."""
        return self.entry.plain or (self.baseline if self.config.needs_runtime else self.tuned)

    @property
    def predicted(self) -> Prediction:
        """The model's prediction for the configuration: the rate, the bottleneck, and each resource's utilization."""
        return self.entry.predicted

    @property
    def graph(self) -> nx.DiGraph:
        """Operator graph of a sample, as in `plumb.trace`: nodes with an "operator", edges with a "flow".

        Empty if the dataset could not be traced; `explain()` then gives the reason.
        """
        import networkx as nx

        from plumb.tracing.stored_pipeline import from_node_link

        return nx.DiGraph() if self.entry.graph is None else from_node_link(self.entry.graph).graph

    def explain(self) -> str:
        """Return the report as plain text: before and after, the bottleneck, the operators, and the trials."""
        from plumb.report.terminal import as_text

        return as_text(self.found)

    def loader(self, dataset: Any, **loader_args: Any) -> DataLoader[Any]:
        """Make a loader over `dataset` that runs on this plan, including what torch's own arguments can't express.

        It delivers the batches of torch's loader, in the same order.

        Args:
            dataset: Dataset of the class that was tuned.
            **loader_args: Arguments that the loader would get without a plan; `batch_size` is the plan's by default.

        Returns:
            The loader, a `plumb.DataLoader`.

        Raises:
            ValueError: The class of the dataset or the batch size is not the tuned one.
        """
        from plumb.api.dataloader import DataLoader
        from plumb.runtime.guards.plan_fit import rewrites_samples

        entry = self.entry
        if type(dataset).__name__ != entry.dataset:
            raise ValueError(f"the plan is for {entry.dataset}, not for {type(dataset).__name__}: tune that one")
        if "batch_sampler" not in loader_args and entry.batch_size is not None:
            loader_args.setdefault("batch_size", entry.batch_size)
        loader: DataLoader[Any] = DataLoader(dataset, **loader_args, tune=False)
        if loader.batch_size != entry.batch_size:
            raise ValueError(f"the plan is for batch_size={entry.batch_size}, not {loader.batch_size}: tune that one")
        loader.run_on(entry, entry.identity.facts if entry.identity and rewrites_samples(entry) else None)
        return loader

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan file, for `LoaderPlan.load` and `plumb report`.

        Args:
            path: The file; an earlier one is replaced.

        Raises:
            OSError: The file can't be written.
        """
        plan.write(self.found, Path(path))

    def __repr__(self) -> str:
        entry, loop = self.entry, self.entry.end_to_end
        gain = loop.ratio if loop else entry.gain
        nothing = "undecided" if entry.undecided else "nothing to change"
        change = f"{gain:.2f} times as fast" if entry.config != entry.baseline.config else nothing
        return f"<LoaderPlan for {entry.dataset}: {entry.config}; {change}>"

    def _repr_html_(self) -> str:
        from plumb.report.notebook import plan_html

        return plan_html(self.entry, self.explain())
