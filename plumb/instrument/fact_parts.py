"""Parts of objects of any class, read without calling the class's own code."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from plumb.instrument.callee import is_dataset, is_step, is_user_class
from plumb.instrument.simple_values import module_name

# Number of items of a large collection, and of one inside a collection, that represent the others.
_SAMPLED, _SAMPLED_WITHIN = 64, 8
_SET_ITERATOR: type = type(iter(set()))
# Base classes that add nothing to a user's class.
_TRIVIAL = frozenset(
    ("builtins.object", "typing.Generic", "typing.Protocol", "abc.ABC", "torch.utils.data.dataset.Dataset",
     "torch.utils.data.dataset.IterableDataset", "argparse.Namespace", "argparse._AttributeHolder",
     "types.SimpleNamespace")
)  # fmt: skip


def has_parts(value: Any) -> bool:
    """Return whether a library's object may contain parts that make samples, or options."""
    kind = type(value)
    is_data_class = any("__dataclass_fields__" in vars(each) for each in kind.__mro__)
    return is_data_class or kind.__module__.startswith("omegaconf.") or is_dataset(value) or is_step(value)


def is_all_the_users(kind: type) -> bool:
    """Return whether only the user's own code can read the attributes of a class's objects."""
    return all(is_user_class(each) or class_path(each) in _TRIVIAL for each in kind.__mro__)


def class_path(kind: type) -> str:
    return (
        kind.__qualname__
        if kind.__module__ == "builtins" and kind is not object
        else f"{module_name(kind.__module__)}.{kind.__qualname__}"
    )


def inside(value: Any) -> tuple[Any, ...]:
    """Return the content of a closure's cell, or the function behind a property or method; none for an empty cell."""
    if isinstance(value, property):
        return (value.fget,)
    try:
        return (value.cell_contents if isinstance(value, types.CellType) else value.__func__,)
    except ValueError:
        return ()


def spread(items: Iterable[Any], length: int, is_within: bool, indexable: Any = None) -> Iterator[Any]:
    """Return some of many items, evenly spread; for a set, which has no order, the first ones."""
    most = _SAMPLED_WITHIN if is_within else _SAMPLED
    step = 1 if isinstance(items, _SET_ITERATOR) else max(1, -(-length // most))
    if indexable is None:
        return itertools.islice(items, 0, most * step, step)
    get: Callable[[Any, int], Any] = list.__getitem__ if issubclass(type(indexable), list) else tuple.__getitem__
    return (get(indexable, place) for place in range(0, length, step))
