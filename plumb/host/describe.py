"""The host as plain data for the plan file."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from plumb.host.advice import advice
from plumb.host.limits import Limits
from plumb.host.machine import Machine


def describe(limits: Limits, machine: Machine) -> dict[str, Any]:
    """Return the plan's `host` entry: the machine, its limits (null if unknown), their sources, GPUs and advice."""
    values = asdict(limits)
    described = {
        **asdict(machine),
        "gpus": list(values.pop("gpus")),
        "sources": values.pop("sources"),
        "advice": advice(limits, machine),
    }
    return {**described, "limits": {name: _finite(value) for name, value in values.items()}}


def _finite(value: float | str | None) -> float | str | None:
    return None if isinstance(value, float) and math.isinf(value) else value
