"""Arguments that a plan replaces, or drops, are refused where torch refuses them."""

from __future__ import annotations

from typing import Any

from plumb.torch_loader import DataLoader

_OF_WORKERS = ("num_workers", "prefetch_factor", "persistent_workers", "timeout", "multiprocessing_context")


class _Probe(DataLoader[Any]):
    made_by_plumb = True

    def check_worker_number_rationality(self) -> None:
        """Says nothing: this loader starts no workers."""


def check(arguments: dict[str, Any]) -> None:
    """Raises what torch raises for the arguments of a `DataLoader` that are about workers."""
    nothing: Any = ()
    _Probe(nothing, **{name: arguments[name] for name in _OF_WORKERS if name in arguments})
