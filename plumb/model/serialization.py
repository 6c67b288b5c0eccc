"""Serialization of the model's inputs into a plan, so that the model works later without the data at hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from plumb.host import Limits
from plumb.host.limits import LOWERABLE
from plumb.model.inputs import ModelInputs, SearchSpace


def to_plain(inputs: ModelInputs, search_space: SearchSpace) -> dict[str, Any]:
    """Return the model inputs and the search space as plain data for JSON; unknown limits are left out."""
    numbers = {name: getattr(inputs.limits, name) for name in LOWERABLE}
    plain = {
        field.name: msgspec.to_builtins(getattr(inputs, field.name))
        for field in dataclasses.fields(inputs)
        if field.name != "limits"
    }
    plain["limits"] = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return {"situation": plain, "freedom": msgspec.to_builtins(search_space)}


def from_plain(data: Mapping[str, Any]) -> tuple[ModelInputs, SearchSpace]:
    """Return what `to_plain` got to make `data`. Raise ValueError, in one line, for any other data."""
    try:
        given = dict(data["situation"])
        numbers = {name: float(value) for name, value in given.pop("limits").items() if name in LOWERABLE}
        limits = Limits().lowered(**numbers)
        # The conversion checks all other fields; the stored limits are set afterwards.
        inputs = msgspec.convert({**given, "limits": {}}, ModelInputs)
        return dataclasses.replace(inputs, limits=limits), msgspec.convert(data["freedom"], SearchSpace)
    except (KeyError, TypeError, AttributeError, ValueError, msgspec.ValidationError) as error:
        raise ValueError(f"what the model was told can't be read ({error})") from None
