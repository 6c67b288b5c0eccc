"""Checks of what users pass from Python, before anything is measured; each error is one line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumb.core.errors import TuningError
from plumb.core.sized import length_of
from plumb.core.units import is_number, parse_size
from plumb.host import Limits
from plumb.host.folder_check import existing_part, why_no_files

Size = str | float
"""A size: text such as "8GiB", or a number of bytes."""


def check_dataset(given: Any, function: str, may_stream: bool = False) -> None:
    """Refuse what is neither a dataset nor a loader, and an empty dataset.

    Args:
        given: What a user passed.
        function: Name of the called function.
        may_stream: Whether the function takes everything that can be iterated.

    Raises:
        TypeError: It is no dataset.
        TuningError: It is empty.
    """
    # Marking a dataset needs this module, and no torch.
    from plumb.instrument.torch_loader import DataLoader as TorchDataLoader

    if isinstance(given, TorchDataLoader):
        return
    why = _why_no_dataset(given, function, may_stream)
    if why is not None:
        raise TypeError(f"{function} takes a dataset or one of torch's loaders, {why}")
    if length_of(given) == 0:
        raise TuningError(f"{type(given).__name__} is empty: there is no sample to load", 1)


def _why_no_dataset(given: Any, function: str, may_stream: bool) -> str | None:
    if given is None:
        return "not None: does the function that should make it return it?"
    if isinstance(given, str | bytes | os.PathLike):
        text = os.fsdecode(given) if not isinstance(given, str) else given
        if text.endswith(".py"):
            return f"not {text!r}; for a script, type in a terminal: {function.replace('.', ' ')} {text}"
        return f"not the text {text!r}: give an object that reads it, such as torchvision's ImageFolder({text!r})"
    if isinstance(given, type):
        return f"not the class {given.__name__}: give an object of it, {given.__name__}(...)"
    name, module = type(given).__name__, type(given).__module__.partition(".")[0]
    if name == "DataFrame":
        return (
            f"not a DataFrame of {module}, whose [i] is no row: give torch.utils.data.TensorDataset("
            "torch.tensor(frame.to_numpy())), or a Dataset of your own"
        )
    if hasattr(type(given), "__getitem__") or any(base.__name__ == "IterableDataset" for base in type(given).__mro__):
        return None
    if hasattr(type(given), "__iter__"):
        if may_stream:
            return None
        return f"not {_named(name)}: put it into a list, or into a torch.utils.data.IterableDataset"
    if callable(given) and hasattr(given, "__name__"):
        return f"not a function: give what {given.__name__}() returns"
    return f"not {given!r}" if isinstance(given, int | float | complex) else f"not {_named(name)}"


def _named(kind: str) -> str:
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def size_of(name: str, given: Any) -> float | None:
    """Return the bytes of a size that was passed as `name`; None stays None.

    Raises:
        TypeError: It is neither text nor a number.
        ValueError: It can't be read.
    """
    if given is None:
        return None
    if isinstance(given, str):
        try:
            return float(parse_size(given))
        except ValueError as error:
            raise ValueError(f'{name}="{given}": {error}') from None
    if not is_number(given):
        raise TypeError(f'{name}={given!r}: write a size with its unit, for example {name}="8GiB"')
    return float(given)


def limits_of(
    limits: Any, *, cpus: float | None = None, memory: Size | None = None, max_workers: Any = None
) -> Limits | None:
    """Return the limits that a user asks for, in one object; None if there are none.

    Raises:
        TypeError: One is of a wrong class.
        ValueError: One is a number that can't be meant.
    """
    if limits is not None and not isinstance(limits, Limits):
        if isinstance(limits, Mapping):
            named = ", ".join(f"{name}={value!r}" for name, value in limits.items())
            raise TypeError(f"limits={limits!r} is a dictionary: write limits=plumb.Limits({named})")
        raise TypeError(f"limits={limits!r}: write for example limits=plumb.Limits(cpus=4)")
    if max_workers is not None and (isinstance(max_workers, bool) or not isinstance(max_workers, int)):
        raise TypeError(f"max_workers={max_workers!r}: write a whole number, for example max_workers=4")
    asked = {"cpus": cpus, "memory_bytes": size_of("memory", memory), "max_workers": max_workers}
    given = {name: value for name, value in asked.items() if value is not None}
    if not given:
        return limits
    return (limits or Limits()).lowered(**given)


def folder_of(name: str, given: str | os.PathLike[str] | None) -> str | None:
    """Return a folder in which stores may be made, as an absolute path; None stays None.

    Raises:
        TypeError: It is no path.
        ValueError: It is a file, or can't be written to.
    """
    if given is None:
        return None
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f'{name}={given!r}: write a folder, for example {name}="/scratch"')
    folder = Path(os.path.abspath(given))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{name}={os.fspath(given)!r} is a file: name a folder")
    if why_no_files(existing_part(folder)):
        raise ValueError(f"{name}={os.fspath(given)!r} can't be written to: name a folder of your own")
    return str(folder)
