"""Code of samples that no tried sample ran: whether it may change what threads share.

Rare samples take branches that a validation of a few samples doesn't. What these branches do is read from their source.
"""

from __future__ import annotations

import contextvars
import os
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from plumb.core.printable import printable
from plumb.instrument.call_site import nodes_of
from plumb.instrument.dataset_state import DatasetState
from plumb.instrument.executed_code import ExecutedCode
from plumb.instrument.local_values import definitions_in
from plumb.instrument.shared_writes import FunctionReader, SharedWrite, may_write, methods_of_set_ups

_WALK_SECONDS = 1.0
# Special methods of a dataset that no sample runs.
_NOT_OF_SAMPLES = frozenset(("__len__", "__iter__", "__next__", "__enter__", "__exit__", "__setitem__", "__delitem__",
                             "__setattr__", "__delattr__", "__eq__", "__hash__", "__add__"))  # fmt: skip


class SampleCode:
    """The user's functions that samples may run, and the `objects` that these may read."""

    def __init__(self, dataset: Any) -> None:
        self.objects: list[Any] = []
        state = DatasetState([dataset], visit=lambda value, _: self.objects.append(value))
        state.look(_WALK_SECONDS, has_windows=False)
        self.functions = [each for each in dict.fromkeys(state.functions) if not _is_for_others(each, dataset)]


def why_untried(found: SampleCode, executed: ExecutedCode) -> str | None:
    """Return why threads can't run the user's code that no tried sample ran; None if it changes nothing shared.

    Args:
        found: Code of all samples.
        executed: What the tried samples ran.
    """
    if any(isinstance(each, contextvars.ContextVar) for each in found.objects):
        return "samples read a context variable, which has a value of its own in each thread"
    functions = found.functions
    methods = frozenset(function.__name__ for function in functions)
    readers: dict[FunctionType, FunctionReader] = {}
    for function in functions:
        definitions = definitions_in(nodes_of(function.__code__.co_filename), function)
        if not definitions and not executed.has_run(function.__code__) and may_write(function.__code__):
            return f"samples that were not tried may run {printable(function.__qualname__)}, whose source is unknown"
        if definitions:
            own = executed.own_parameters(function.__code__)
            receivers = [each for each in found.objects if _has_method(each, function)]
            readers[function] = FunctionReader(function, definitions[-1], methods, receivers, own)
    return _first_reason(readers, executed)


def _first_reason(readers: Mapping[FunctionType, FunctionReader], executed: ExecutedCode) -> str | None:
    set_ups = methods_of_set_ups(readers)
    for function, reader in readers.items():
        if function.__name__ in set_ups:
            continue
        file = function.__code__.co_filename
        for write in reader.writes:
            if not _is_tried(write, file, executed):
                action = "look at their thread by" if write.is_thread else "may change"
                place = f"{os.path.basename(file)}:{write.node.lineno}"
                return printable(f"samples that were not tried {action} {write.what} ({place})")
    return None


def _is_tried(write: SharedWrite, file: str, executed: ExecutedCode) -> bool:
    node = write.node
    first = node.lineno, node.col_offset
    last = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
    return executed.has_tried(file, first, last, write.is_alone)


def _is_for_others(function: FunctionType, dataset: Any) -> bool:
    """Return whether a function is a method of a dataset that makes no samples."""
    return function.__name__ in _NOT_OF_SAMPLES and _has_method(dataset, function)


def _has_method(value: Any, function: FunctionType) -> bool:
    return any(vars(kind).get(function.__name__) is function for kind in type(value).__mro__)
