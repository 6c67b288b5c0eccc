"""Where a framework makes the loader: its own settings, by the names that its users give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plumb.plan import LoaderPlan


@dataclass(frozen=True)
class Framework:
    """Where its users give it settings, and its names for torch's arguments, as far as it has some."""

    taken_by: str
    names: Mapping[str, str]


# By top-level package. The Trainer's are fields of `transformers.TrainingArguments`, timm's arguments of its function.
FRAMEWORKS = {
    "transformers": Framework(
        "TrainingArguments",
        {
            "num_workers": "dataloader_num_workers",
            "prefetch_factor": "dataloader_prefetch_factor",
            "persistent_workers": "dataloader_persistent_workers",
            "pin_memory": "dataloader_pin_memory",
        },
    ),
    "timm": Framework(
        "timm.data.create_loader",
        {"num_workers": "num_workers", "persistent_workers": "persistent_workers", "pin_memory": "pin_memory"},
    ),
}


def framework_setting(loader: LoaderPlan) -> str | None:
    """What to set where a framework makes the loader, as a call of its own; None for others, and where that is nothing.

    What only plumb's runtime can do is left out: it is the best that was measured without.
    """
    framework, config = FRAMEWORKS.get(loader.library), loader.expressible
    if framework is None or config is None or config == loader.baseline.config:
        return None
    arguments = config.loader_arguments()
    given = [
        f"{theirs}={arguments[name]!r}" for name, theirs in framework.names.items() if arguments.get(name) is not None
    ]
    return f"{framework.taken_by}(..., {', '.join(given)})"
