"""The machine that a result was measured on, in one line."""

from datetime import date

from plumb.core.units import format_bytes
from plumb.host import Limits, Machine


def description() -> str:
    """CPU, what of it may be used, memory, system and versions, and the day."""
    machine, limits = Machine.detect(), Limits.detect()
    versions = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    return (
        f"{machine.cpu_model}, {limits.cpus:g} CPUs, {format_bytes(limits.memory_bytes)} of memory, {machine.system}, "
        f"Python {machine.python}, {versions}; {date.today():%Y-%m-%d}"
    )
