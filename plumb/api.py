"""Tuning from within Python: `plumb.tune`, and the plan that it returns."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumb import plan
from plumb.config import Config
from plumb.marks import Settings
from plumb.plan import Measured, Plan, PlanError, Prediction
from plumb.site import Site, find_site
from plumb.torch_loader import DataLoader as TorchDataLoader

if TYPE_CHECKING:
    import networkx as nx

    from plumb.dataloader import DataLoader
    from plumb.host import Limits


class _Subject(TorchDataLoader[Any]):
    """A loader that is only there to be tuned."""

    made_by_plumb = True


def tune(
    dataset_or_loader: Any,
    *,
    batch_size: int | None = None,
    step: Callable[[Any], object] | float | None = None,
    limits: Limits | None = None,
    budget: float = 30.0,
    plain: bool = False,
    **loader_args: Any,
) -> LoaderPlan:
    """Finds the best way to load a dataset on this host, in about `budget` seconds, and says why.

    Give a dataset with the arguments of its loader (`batch_size`, `shuffle`, `collate_fn` and whatever else torch's
    `DataLoader` takes), or a loader of torch's. What it has now is the baseline; nothing that is not measured to be
    better is proposed.

    `step` is what the data is for: a callable that is given batches as your training step is, and does with them what
    that does (train, for one), or the number of samples/s that your step takes. With it, plumb stops at the cheapest
    configuration that keeps the step busy; without, it looks for the highest rate. `limits` may lower what the host
    allows, for instance `plumb.Limits(cpus=4)`. With `plain=True`, torch's own arguments alone are tuned, which need no
    plumb afterwards; without, the plan has the best of them too, as `plain`.

    Runs in this process, a notebook's too, and puts random generators, samplers and the dataset's attributes back as
    they were. A stream that can be read only once is read. Raises TypeError for arguments that don't go together,
    ValueError for a budget or a rate that is not above 0, `plumb.errors.TuningError` in one line where nothing can be
    measured, and whatever torch, the dataset or the step itself raises.

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
    from plumb.here import tune_here

    if not budget > 0:
        raise ValueError(f"budget={budget!r}: it is a number of seconds above 0")
    if step is not None and not callable(step) and not step > 0:
        raise ValueError(f"step={step!r}: it is a callable, or a number of samples/s above 0")
    loader = _loader(dataset_or_loader, batch_size, loader_args)
    site = find_site(sys._getframe(1))
    named = Site(site.file, site.line, type(loader.dataset).__name__)
    return LoaderPlan(tune_here(loader, named, Settings(budget, limits, plain=plain).options(), step))


def _loader(given: Any, batch_size: int | None, loader_args: dict[str, Any]) -> TorchDataLoader[Any]:
    """The loader to tune."""
    if isinstance(given, TorchDataLoader):
        if batch_size is not None or loader_args:
            named = ", ".join([*(["batch_size"] if batch_size is not None else []), *loader_args])
            raise TypeError(
                f"plumb.tune was given a loader and {named}: a loader has its own; give its dataset instead"
            )
        return given
    return _Subject(given, **(loader_args if batch_size is None else {**loader_args, "batch_size": batch_size}))


@dataclass(frozen=True, repr=False)
class LoaderPlan:
    """How to load a dataset on this host, why, and how that was found. `found` is the plan as its file holds it.

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
        """A plan from its file: one that was saved, or one of `plumb tune`, then of the loader called `name` in it.

        Raises `plumb.plan.PlanError`, in one line, where there is no such plan.
        """
        found = plan.read(Path(path))
        named = [each for each in found.loaders if name is None or each.name == name]
        if len(named) != 1:
            known = ", ".join(each.name for each in found.loaders) or "none"
            raise PlanError(f"{os.fspath(path)}: name one of its loaders: {known}")
        return cls(dataclasses.replace(found, loaders=(named[0],)))

    @property
    def entry(self) -> plan.LoaderPlan:
        """All that was found out of this loader, as in the plan file."""
        return self.found.loaders[0]

    @property
    def config(self) -> Config:
        """The configuration to use: a plain dataclass, with `loader_arguments()` for torch's own `DataLoader`."""
        return self.entry.config

    @property
    def baseline(self) -> Measured:
        """What the loader had before, and its rate."""
        return self.entry.baseline

    @property
    def tuned(self) -> Measured:
        """What was found, and its rate; the baseline itself where nothing is better."""
        return self.entry.tuned

    @property
    def plain(self) -> Measured:
        """The best of torch's own arguments alone, for a loader without plumb; the baseline where none is better."""
        return self.entry.plain or (self.baseline if self.config.needs_runtime else self.tuned)

    @property
    def predicted(self) -> Prediction:
        """What the model says of the configuration: the rate, the bottleneck, and each resource's share in use."""
        return self.entry.predicted

    @property
    def graph(self) -> nx.DiGraph:
        """What a sample goes through, as `plumb.trace` gives it: nodes with an "operator", edges with a "flow".

        Empty where the dataset could not be traced; `explain()` then says why.
        """
        import networkx as nx

        from plumb.trace.stored import from_node_link

        return nx.DiGraph() if self.entry.graph is None else from_node_link(self.entry.graph).graph

    def explain(self) -> str:
        """The report as plain text: before and after, the bottleneck, the operators, and what was tried."""
        from plumb.report.terminal import as_text

        return as_text(self.found)

    def loader(self, dataset: Any, **loader_args: Any) -> DataLoader[Any]:
        """A loader over `dataset` that runs on this plan, with all that it says beyond torch's own arguments.

        `loader_args` are what the loader would be given without a plan; `batch_size` is the plan's by default. It
        delivers what torch's loader would, in the same order. Raises ValueError for a dataset of another class or
        another batch size than it was tuned with, and what torch raises.
        """
        from plumb.dataloader import DataLoader
        from plumb.runtime.fit import rewrites_samples

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
        """Writes the plan file, for `LoaderPlan.load` and for `plumb report`. Raises OSError."""
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
