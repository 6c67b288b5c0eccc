"""A case: a function that uses a loader as a script would, and tells what it saw as data that JSON can hold."""

from __future__ import annotations

import dataclasses
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plumb.core.config import Config
from plumb.core.plan import LoaderResult, Measured, Plan, Prediction

NONE, TWO, PERSISTENT = Config(), Config(2, 2), Config(2, 3, persistent_workers=True)


@dataclasses.dataclass(frozen=True)
class Case:
    """`run` is given torch's arguments for the workers; it calls its loader `loader`.

    `users` are those arguments in the script, `planned` those in a plan. On the plan, what it returns under the keys in
    `like_torch` must be what it returns where the script itself has the plan's arguments, or what it returns without a
    plan: the user's own configuration makes what others fail at. What `instead` says counts for its keys. All else must
    stay as it is.
    """

    run: Callable[[dict[str, Any]], dict[str, Any]]
    users: Config
    planned: Config
    batch_size: int | None
    like_torch: tuple[str, ...]
    instead: dict[str, Any]

    @property
    def file(self) -> str:
        return Path(self.run.__code__.co_filename).name


CASES: dict[str, Case] = {}


def case(
    *pairs: tuple[Config, Config],
    batch_size: int | None = 4,
    like_torch: tuple[str, ...] = (),
    instead: dict[str, Any] | None = None,
) -> Callable[[Callable[[dict[str, Any]], dict[str, Any]]], Callable[[dict[str, Any]], dict[str, Any]]]:
    """Makes a function a case, once for each pair of the script's configuration and the plan's."""

    def add(run: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        for users, planned in pairs or ((NONE, PERSISTENT),):
            words = f"{run.__name__}, {_words(users)} to {_words(planned)}"
            CASES[words] = Case(run, users, planned, batch_size, like_torch, instead or {})
        return run

    return add


def _words(config: Config) -> str:
    parts = [f"{config.num_workers} workers"]
    parts += [f"{config.prefetch_factor} ahead"] if config.num_workers else []
    parts += ["persistent"] if config.persistent_workers else []
    return " ".join(parts)


def plan_of(file: str, batch_size: int | None, users: Config, tuned: Config) -> Plan:
    """A plan that has `tuned` for the loaders called `loader` in `file`, which the script runs on `users`."""
    rate = (90.0, 110.0)
    loader = LoaderResult(
        name="loader",
        site=f"{file}:1",
        dataset="",
        batch_size=batch_size,
        baseline=Measured(users, 100.0, rate),
        tuned=Measured(tuned, 100.0, rate),
        predicted=Prediction(100.0, "cpu", {"cpu": 1.0}),
    )
    return Plan(file, {}, 1.0, 1.0, (loader,))


def shown(value: Any) -> Any:
    """The value with all that a script could tell apart: types, element types and contents."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {value.tolist()}"
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.tolist()}"
    if isinstance(value, dict):
        return [type(value).__name__, *([str(key), shown(item)] for key, item in value.items())]
    if isinstance(value, (list, tuple, set)):
        return [type(value).__name__, *(shown(item) for item in value)]
    if dataclasses.is_dataclass(value):
        return [type(value).__name__, *(shown(getattr(value, part.name)) for part in dataclasses.fields(value))]
    return f"{type(value).__name__} {value!r}"


def raised(action: Callable[[], Any]) -> dict[str, Any]:
    """What `action` raises: the type, the message, and the last of its lines that is a user's."""
    try:
        action()
        told: dict[str, Any] = {"type": None}
    except Exception as error:
        lines = re.findall(r'tests/documented/([a-z]\w+\.py)", line (\d+), in (\w+)', traceback.format_exc())
        message = re.sub(r"pid(\(s\))? [\d, ]+\d", "pid", str(error))
        told = {
            "type": type(error).__name__,
            "module": type(error).__module__,
            "message": message,
            "last line": lines[-1],
            "cause": type(error.__cause__).__name__,
        }
        # What torch raises again refers to itself and to the iterator, whose workers would wait to be collected.
        traceback.clear_frames(error.__traceback__)
    return told
