"""Identity of a loader object: its place in the script, its arguments and the facts about its dataset."""

from __future__ import annotations

import os
import sys
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.core.identity import Facts, Identity, Place
from plumb.core.printable import printable
from plumb.core.sized import length_of
from plumb.instrument.call_site import Site
from plumb.instrument.dataset_facts import facts_about
from plumb.instrument.simple_values import module_name

# Torch's attributes of a loader, which have the names of its arguments.
_ARGUMENTS = ("batch_size", "drop_last", "num_workers", "prefetch_factor", "persistent_workers", "pin_memory",
              "in_order", "timeout")  # fmt: skip


def place_of(site: Site) -> Place:
    """Return the place of a construction site, independent of the script's folder and of lines above."""
    return Place(*map(printable, (_file_in_script(site.file), site.scope, site.statement, site.library)))


def identity_of(loader: DataLoader[Any], place: Place, order: int) -> Identity:
    """Return the identity of a loader at construction, without the facts about its dataset."""
    return Identity(place, order, class_name(type(loader.dataset)), dataset_length(loader), arguments_of(loader))


def facts_of_loader(loader: DataLoader[Any]) -> Facts | None:
    """Return the facts about a loader's samples; None if looking them up fails."""
    try:
        return facts_about(loader)
    except Exception:
        return None


def arguments_of(loader: DataLoader[Any]) -> dict[str, str]:
    """Return the arguments that a loader has now, in words."""
    arguments = {name: repr(getattr(loader, name)) for name in _ARGUMENTS if hasattr(loader, name)}
    for name in ("sampler", "batch_sampler"):
        arguments[name] = type(getattr(loader, name, None)).__name__
    context = loader.multiprocessing_context
    method = context.get_start_method() if context is not None else None
    arguments["multiprocessing_context"] = str(method)
    return arguments


def class_name(kind: type) -> str:
    """Return a class's module and name."""
    return f"{module_name(kind.__module__)}:{kind.__qualname__}"


def dataset_length(loader: DataLoader[Any]) -> int | None:
    """Return the number of samples in a loader's dataset; None for a stream, and if its length raises."""
    return None if isinstance(loader.dataset, IterableDataset) else length_of(loader.dataset)


def _file_in_script(file: str) -> str:
    """Return a source file's path below the script's folder; of one elsewhere, its name."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = os.path.dirname(os.path.abspath(script)) if isinstance(script, str) else ""
    path = os.path.abspath(file)
    return os.path.relpath(path, folder) if folder and path.startswith(folder + os.sep) else os.path.basename(path)
