"""Plans stored for later runs, and found again only for the same dataset, loader, host and wishes.

A plan is data, in a file that only its user can write. It contains what it was made for, and is used only if all of
that is the same today and the host has enough free resources now.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import multiprocessing
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.core import plan
from plumb.core.errors import StoreError
from plumb.core.identity import Facts
from plumb.core.plan import LoaderResult, Plan, PlanError
from plumb.core.sized import length_of
from plumb.host import Machine
from plumb.host.user_folder import open_private, open_user_folder, user_folder
from plumb.instrument.identity_difference import difference_of_facts, without_numbers
from plumb.instrument.identity_of_loader import facts_of_loader
from plumb.instrument.main_module import main_is_guarded, runs_script_again
from plumb.model import constraints, serialization
from plumb.runtime.guards.plan_fit import rewrites_samples
from plumb.runtime.loader import current_config
from plumb.tuning.options import Options

_FOLDER = "plans"
_PACKAGES = ("torch", "plumb-tune")


@dataclasses.dataclass(frozen=True)
class CacheKey:
    """Everything that must be the same for a plan to be valid.

    `content` is a digest of everything that determines samples and batches, `steady` a digest without the numbers.
    `facts` are the facts behind these, if they were looked up; they are not stored.
    """

    dataset: str
    length: int | None
    content: str
    steady: str
    loader: dict[str, Any]
    host: dict[str, Any]
    wishes: dict[str, Any]
    facts: Facts | None = dataclasses.field(default=None, compare=False, repr=False)

    def plain(self) -> dict[str, Any]:
        """Return the same values as after a round trip through JSON."""
        told: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(dataclasses.replace(self, facts=None))))
        del told["facts"]
        return told

    @property
    def without_numbers(self) -> str:
        """Key shared by datasets that differ in a number only, such as that of an epoch."""
        return json.dumps({**self.plain(), "content": ""}, sort_keys=True)

    @property
    def without_content(self) -> str:
        """Key shared by datasets of one class that differ in flags and texts."""
        return json.dumps({**self.plain(), "content": "", "steady": ""}, sort_keys=True)


class UnsafePlanError(PlanError):
    """A plan that changed samples in a run. No other plan may replace it."""


def cache_key(loader: DataLoader[Any], options: Options) -> CacheKey:
    """Return what a plan for `loader`, found with `options` now, would be made for."""
    dataset, machine, limits, facts = loader.dataset, _machine(), options.limits, facts_of_loader(loader)
    is_iterable = isinstance(dataset, IterableDataset)
    # Asking for the current method would fix it. The first of all methods is the default.
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return CacheKey(
        dataset=_class_name(type(dataset)),
        # Torch counts the samples of a stream once its length was requested.
        length=None if is_iterable else length_of(dataset),
        content=_digest(facts),
        steady=_digest(facts and without_numbers(facts)),
        loader={
            **dataclasses.asdict(current_config(loader)),
            "batch_size": loader.batch_size,
            "drop_last": loader.drop_last,
            "batches": None if is_iterable else length_of(loader),
            "sampler": _class_name(type(loader.sampler)),
            "batch_sampler": _class_name(type(loader.batch_sampler)),
        },
        host={
            "cpu_model": machine.cpu_model,
            "logical_cpus": machine.logical_cpus,
            "usable_cpus": machine.usable_cpus,
            "cpus": _finite(limits.cpus),
            "ranks": machine.ranks,
            "gpus": [gpu.name for gpu in limits.gpus],
            "python": machine.python,
            "packages": {name: machine.packages.get(name) for name in _PACKAGES},
            "start_method": method,
            # Workers that aren't forked run the main module's code again.
            "workers_may_start": method == "fork" or main_is_guarded(),
        },
        wishes={
            "max_workers": _finite(limits.max_workers),
            # Plans of those who ask for no limit are found again.
            **({"max_connections": limits.max_connections} if math.isfinite(limits.max_connections) else {}),
            "may_reorder": options.may_reorder,
            "on_device": options.on_device,
            "plain": options.plain,
            "cache_memory_bytes": options.cache_memory_bytes,
            "cache_folder": options.cache_folder,
        },
        facts=facts,
    )


# A loader may be remade in every epoch; the host stays the same.
_machine = functools.cache(Machine.detect)


def cached_plan_path(key: CacheKey) -> Path:
    """Return the file in the user's cache folder for such a plan."""
    digest = hashlib.blake2b(json.dumps(key.plain(), sort_keys=True).encode(), digest_size=8).hexdigest()
    name = re.sub(r"\W+", "-", key.dataset.rpartition(":")[2].rpartition(".")[2])
    return user_folder() / _FOLDER / f"{name}-{digest}.plumb.json"


def find(place: Path, key: CacheKey, options: Options) -> LoaderResult | None:
    """Return the plan at `place` if it was made for `key` and the host has the resources left; None without a file.

    Raises:
        PlanError: The file can't be used; the message is one line.
        UnsafePlanError: The plan changed samples in a run.
    """
    try:
        if place.parent == user_folder() / _FOLDER:
            os.close(open_private(place.parent))
        if not place.exists():
            return None
    except FileNotFoundError:
        return None
    except (OSError, StoreError) as error:
        raise PlanError(str(error)) from None
    found = plan.read(place)
    known = found.made_for == key.plain() if found.made_for else _is_for(found, key)
    fitting = [each for each in found.loaders if not found.script or _is_same_loader(each, key)]
    if not known or not fitting:
        raise PlanError(f"{place} was made for another dataset, loader or host")
    if len(fitting) > 1:
        raise PlanError(f"{place} has several entries that fit {key.dataset.rpartition(':')[2]}")
    planned = fitting[0]
    if planned.unsafe:
        raise UnsafePlanError(f"{place} is not used any more: {planned.unsafe}")
    if runs_script_again(planned.config):
        raise PlanError(f"{place} starts workers that would run this script once more")
    broken = _broken_limit(planned, options)
    if broken:
        raise PlanError(f"{place} does not fit this host now: it {broken}")
    return planned


def keep(found: Plan, place: Path, key: CacheKey) -> None:
    """Write a plan to `place`, where `find` finds it. Raise PlanError if that fails."""
    try:
        if place.parent == user_folder() / _FOLDER:
            os.close(open_user_folder(_FOLDER))
        plan.write(dataclasses.replace(found, made_for=key.plain()), place)
    except (OSError, StoreError) as error:
        raise PlanError(f"{place} can't be written ({error})") from None


def _is_for(found: Plan, key: CacheKey) -> bool:
    """Return whether a plan by `plumb tune` was made on this host."""
    host = found.host
    packages = host.get("packages") or {}
    cpus = (host.get("limits") or {}).get("cpus")
    return (
        host.get("cpu_model") == key.host["cpu_model"]
        and cpus == key.host["cpus"]
        and all(packages.get(name) == version for name, version in key.host["packages"].items())
    )


def _is_same_loader(planned: LoaderResult, key: CacheKey) -> bool:
    """Return whether an entry of a plan by `plumb tune` is for such a loader over such a dataset."""
    own = {name: key.loader[name] for name in dataclasses.asdict(planned.baseline.config)}
    then = planned.identity.facts if planned.identity else None
    return (
        planned.dataset == key.dataset.rpartition(":")[2].rpartition(".")[2]
        and planned.batch_size == key.loader["batch_size"]
        and dataclasses.asdict(planned.baseline.config) == own
        and (planned.identity is None or planned.identity.length == key.length)
        and (then is None or key.facts is None or not _differ(then, key.facts, planned))
    )


def _differ(then: Facts, now: Facts, planned: LoaderResult) -> bool:
    return bool(difference_of_facts(then, now, values_count=rewrites_samples(planned)))


def _broken_limit(planned: LoaderResult, options: Options) -> str | None:
    """Return the limit that the plan would exceed today, in words; None if it fits."""
    if planned.model is None:
        return None
    try:
        inputs, _ = serialization.from_plain(planned.model)
    except ValueError as error:
        raise PlanError(str(error)) from None
    return constraints.broken_limit(planned.config, dataclasses.replace(inputs, limits=options.limits))


def _digest(facts: Facts | None) -> str:
    """Return a digest of the facts; a random one for a dataset without facts, which therefore equals no other."""
    told = secrets.token_bytes(16) if facts is None else repr(dataclasses.astuple(facts)).encode("utf-8", "replace")
    return hashlib.blake2b(told, digest_size=16).hexdigest()


def _class_name(kind: type) -> str:
    """Return a class's module and name; the file for the main module, because every script has a main module."""
    module = kind.__module__
    if module in ("__main__", "__mp_main__"):
        file = getattr(sys.modules.get(module), "__file__", None)
        module = os.path.abspath(file) if file else "__main__"
    return f"{module}:{kind.__qualname__}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
