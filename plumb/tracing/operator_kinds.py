"""Classification of operators by their input and output."""

from __future__ import annotations

from plumb.instrument.values import Description
from plumb.tracing.dataflow_pass import NodeFacts
from plumb.tracing.pipeline import Kind

ENCODED_TYPES = {"bytes", "bytearray", "memoryview", "str", "PosixPath", "WindowsPath", "NoneType"}
DECODING_WORDS = ("decode", "imread", "imdecode", "read_image", "loadtxt", "read_csv", "loads")


def kind_of(name: str, facts: NodeFacts, *, collates: bool, first: bool) -> Kind:
    """Return the kind of an operator.

    Args:
        name: Name of the operator.
        facts: Facts of the discovery pass about it.
        collates: Whether the operator makes batches.
        first: Whether no recorded value flows into the operator.

    """
    given, made = facts.input, facts.output
    if collates:
        return "collate"
    if _device(made) not in (_device(given), "cpu"):
        return "transfer"
    if facts.decodes_lazily and name.rpartition(".")[2] in {"convert", "load", "asarray", "array"}:
        return "decode"
    if any(word in name.lower() for word in DECODING_WORDS):
        return "decode"
    if facts.opens or facts.read_bytes:
        return "read"
    if first:
        return "source"
    if _is_decoded(given, made):
        return "decode"
    return "convert" if _is_converted(given, made) else "transform"


def _device(value: Description | None) -> str:
    return "cpu" if value is None or value.device is None else value.device.partition(":")[0]


def _is_decoded(given: Description | None, made: Description | None) -> bool:
    """Return whether encoded bytes went in and an array or an image came out."""
    return (
        given is not None
        and given.type in ENCODED_TYPES
        and made is not None
        and made.shape is not None
        and made.size_bytes > 0
    )


def _is_converted(given: Description | None, made: Description | None) -> bool:
    """Return whether an array became one of another library or dtype with the same number of elements."""
    if given is None or made is None or given.shape is None or made.shape is None:
        return False
    return (given.type, given.dtype) != (made.type, made.dtype) and _elements(given) == _elements(made)


def _elements(value: Description) -> int | None:
    count = 1
    for size in value.shape or ():
        if size is None:
            return None
        count *= size
    return count
