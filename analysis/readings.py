"""What long benchmarks measured of each pipeline, kept as JSON in `analysis/data/readings`, so that they can go on."""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from analysis.pipelines.pipeline import DATA

_FOLDER = DATA / "readings"
Kind = TypeVar("Kind")


def path_of(variant: str, name: str) -> Path:
    """Where the readings of a pipeline are kept; each variant of a benchmark has its own."""
    return _FOLDER / variant / f"{name}.json"


def add_fresh(parser: argparse.ArgumentParser) -> None:
    """Adds the wish to measure anew."""
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")


def once(variant: str, name: str, kind: type[Kind], measure: Callable[[], Kind], is_fresh: bool) -> Kind:
    """Readings of before, or else what `measure` gives now, which is kept; always that where it `is_fresh`.

    It runs in a process of its own, as a user's training does: what a batch costs hangs on what was freed before it.
    """
    known = None if is_fresh else kept(variant, name, kind)
    if known is None:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            known = process.submit(measure).result()
        keep(variant, name, known)
    return known


def kept(variant: str, name: str, kind: type[Kind]) -> Kind | None:
    """Readings of before; None where there are none, or of another form."""
    try:
        return msgspec.json.decode(path_of(variant, name).read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def keep(variant: str, name: str, readings: Any) -> None:
    """Writes readings, so that they are there whole or not at all; numbers of numpy as any others."""
    path = path_of(variant, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    draft.write_bytes(msgspec.json.encode(readings, enc_hook=float))
    draft.replace(path)
