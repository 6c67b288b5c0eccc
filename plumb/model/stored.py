"""What the model was told, as plain data in a plan, and back: so that it answers without the data at hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from plumb.host import Limits
from plumb.model.situation import Freedom, Situation

_LIMITS = (
    "cpus",
    "memory_bytes",
    "shm_bytes",
    "open_files",
    "processes",
    "disk_bytes",
    "max_workers",
)


def to_plain(situation: Situation, freedom: Freedom) -> dict[str, Any]:
    """The situation and the freedom as JSON can hold them; a limit that isn't known is left out."""
    numbers = {name: getattr(situation.limits, name) for name in _LIMITS}
    plain = {
        field.name: msgspec.to_builtins(getattr(situation, field.name))
        for field in dataclasses.fields(situation)
        if field.name != "limits"
    }
    plain["limits"] = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return {"situation": plain, "freedom": msgspec.to_builtins(freedom)}


def from_plain(data: Mapping[str, Any]) -> tuple[Situation, Freedom]:
    """What `to_plain` gave `data` for. Raises ValueError, in one line, where it did not."""
    try:
        given = dict(data["situation"])
        numbers = {name: float(value) for name, value in given.pop("limits").items() if name in _LIMITS}
        limits = Limits().lowered(**numbers)
        # Checked with limits of its own, then given those that were stored.
        situation = msgspec.convert({**given, "limits": {}}, Situation)
        return dataclasses.replace(situation, limits=limits), msgspec.convert(data["freedom"], Freedom)
    except (KeyError, TypeError, AttributeError, ValueError, msgspec.ValidationError) as error:
        raise ValueError(f"what the model was told can't be read ({error})") from None
