"""Restoration of a dataset's state after reading, so that a tuned loader delivers the same as without tuning."""

from __future__ import annotations

import contextlib
import dis
import io
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.instrument.array_copies import ArrayCopies
from plumb.instrument.byte_windows import array_of
from plumb.instrument.callee import is_user_class, is_user_code
from plumb.instrument.dataset_objects import GROWING, get_state, is_generator, reached, set_state
from plumb.instrument.dataset_state import DatasetState
from plumb.instrument.object_parts import roots_of
from plumb.instrument.rng_state import restored_generators
from plumb.instrument.value_kinds import ValueKind, kind_of

# Longer collections are not restored: a dataset's index is long, and reading doesn't change it.
_LONGEST = 1_000_000
# Of small arrays and buffers, at most this many bytes are restored.
_MOST_BYTES = 1 << 26
_LOOK_SECONDS = 0.3
Undo = Callable[[], None]


@dataclass
class Restoration:
    """Outcome of `restored_state`: `not_restored` is the place of a change that remained; empty without one."""

    not_restored: str = ""


@contextmanager
def restored_state(loader: DataLoader[Any], only_samples: bool = True) -> Iterator[Restoration]:
    """Restore what reading in the context changes in everything that a loader's samples and order are made from.

    That is: attributes, items of collections, small arrays, random generators, variables that functions assign outside
    of themselves, and positions in files. Iterators can't be set back. If not `only_samples` are made in the context,
    but a model is trained, too, arrays are left alone, because the dataset may know the model.
    """
    samplers = _samplers(loader)
    drawn = (loader.generator, *(getattr(each, "generator", None) for each in samplers))
    roots = (*roots_of(loader), *samplers)
    found = {id(value): value for root in roots for value in (root, *reached(root))}
    found |= {id(each): each for each in drawn if is_generator(each)}
    undoing = list(_undoing(found.values(), {id(each) for each in samplers}))
    if only_samples:
        arrays = (array_of(value) for value in found.values() if kind_of(value) is ValueKind.ARRAY)
        undoing.append(ArrayCopies([each for each in arrays if each is not None], _MOST_BYTES).put_back)
    state, outcome = DatasetState(roots), Restoration()
    state.look(_LOOK_SECONDS)
    with restored_generators():
        try:
            yield outcome
        finally:
            for undo in undoing:
                with contextlib.suppress(Exception):
                    undo()
            if only_samples:
                outcome.not_restored = next((each.place for each in state.look(_LOOK_SECONDS)), "")


def single_pass_part(loader: DataLoader[Any]) -> str:
    """Return the class of a loader's part that can be read only once; empty if all parts can be restarted.

    Such a part is a stream that is its own iterator, or contains one: an open file, a generator. A dataset is one too
    if its samples read on in an iterator that it holds.
    """
    parts = _samplers(loader)
    is_stream = isinstance(loader.dataset, IterableDataset)
    for part in [*parts, loader.dataset] if is_stream else parts:
        held = getattr(part, "__dict__", {}).values()
        if any(hasattr(type(value), "__next__") for value in (part, *held)):
            return type(part).__name__
    if is_stream:
        return ""
    state = DatasetState(roots_of(loader))
    state.look(_LOOK_SECONDS, has_windows=False)
    return type(loader.dataset).__name__ if state.iterators else ""


def _samplers(loader: DataLoader[Any]) -> list[Any]:
    """Return the parts that determine the order: the batch sampler and the samplers inside, if known."""
    inside = getattr(loader.batch_sampler, "sampler", None)
    found = {id(each): each for each in (loader.batch_sampler, loader.sampler, inside) if each is not None}
    return list(found.values())


# ---- what is restored, value by value


def _undoing(values: Iterable[Any], samplers: set[int]) -> Iterator[Undo]:
    """Yield the functions that restore the present state of values, except arrays."""
    for value in values:
        kind = kind_of(value)
        if isinstance(value, GROWING) and len(value) <= _LONGEST:
            yield partial(_refill, value, _items(value))
        if is_generator(value):
            yield partial(set_state, value, get_state(value))
        elif kind is ValueKind.CLASS and is_user_class(value):
            yield partial(_assign_members, value, {name: item for name, item in vars(value).items() if _is_value(item)})
        elif kind is ValueKind.FUNCTION and is_user_code(value):
            yield from _variables(value)
        elif kind in (ValueKind.OBJECT, ValueKind.STEP) or id(value) in samplers:
            own = getattr(value, "__dict__", None)
            if type(own) is dict:
                yield partial(_refill_names, value, dict(own))
        elif isinstance(value, io.IOBase):
            with contextlib.suppress(OSError, ValueError):
                # What is written meanwhile, such as a log, stays.
                if isinstance(value, (io.BytesIO, io.StringIO)) or not value.writable():
                    yield partial(_seek, value, value.tell())


def _variables(function: types.FunctionType) -> Iterator[Undo]:
    """Yield what restores the variables outside of a function that its own code assigns."""
    for operation in dis.get_instructions(function.__code__):
        name, names = operation.argval, function.__globals__
        if operation.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            yield partial(names.__setitem__, name, names[name]) if name in names else partial(names.pop, name, None)
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):
            yield partial(setattr, cell, "cell_contents", cell.cell_contents)


def _refill_names(owner: Any, before: dict[str, Any]) -> None:
    now = vars(owner)
    if now.keys() != before.keys() or any(now[name] is not value for name, value in before.items()):
        now.clear()
        now.update(before)


def _assign_members(kind: type, before: dict[str, Any]) -> None:
    """Restore the attributes of a class that are no code."""
    for name in [name for name, item in vars(kind).items() if _is_value(item) and name not in before]:
        delattr(kind, name)
    for name, value in before.items():
        if vars(kind).get(name) is not value:
            setattr(kind, name, value)


def _is_value(item: Any) -> bool:
    return kind_of(item) not in (ValueKind.FUNCTION, ValueKind.CLASS, ValueKind.WRAPPED) and not hasattr(
        item, "__get__"
    )


def _seek(file: io.IOBase, position: int) -> None:
    if not file.closed and file.tell() != position:
        file.seek(position)


def _items(value: Any) -> list[Any]:
    return list(value.items()) if isinstance(value, dict) else list(value)


def _refill(value: Any, before: list[Any]) -> None:
    """Restore the items of a collection."""
    now = _items(value)
    if len(now) == len(before) and all(_is_same(one, other) for one, other in zip(now, before, strict=True)):
        return
    value.clear()
    if isinstance(value, (dict, set)):
        value.update(before)
    elif isinstance(value, (list, deque)):
        value.extend(before)


def _is_same(now: Any, before: Any) -> bool:
    if isinstance(now, tuple) and isinstance(before, tuple) and len(now) == len(before):
        return all(one is other for one, other in zip(now, before, strict=True))
    return now is before
