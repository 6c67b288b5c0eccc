"""Settings of frameworks that make the loader, by the frameworks' own names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plumb.core.plan import LoaderResult
from plumb.report.wording import written_config


@dataclass(frozen=True)
class Framework:
    """Place where a framework's users set torch's arguments, and its names for those that it supports."""

    taken_by: str
    names: Mapping[str, str]


# By top-level package. Those of the Trainer are fields of `transformers.TrainingArguments`, timm's are arguments.
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


def framework_setting(loader: LoaderResult) -> str | None:
    """Return the call that sets a framework's loader, or None if no framework makes it or nothing is to be set.

    The call has the best configuration measured without plumb's runtime.
    """
    framework, config = FRAMEWORKS.get(loader.library), written_config(loader)
    if framework is None or config is None:
        return None
    arguments = config.loader_arguments()
    given = [
        f"{theirs}={arguments[name]!r}" for name, theirs in framework.names.items() if arguments.get(name) is not None
    ]
    return f"{framework.taken_by}(..., {', '.join(given)})"
