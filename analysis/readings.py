"""Readings of long benchmarks for each pipeline, kept as JSON in `analysis/data/readings`, so that they can go on."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from analysis.pipelines.pipeline import DATA

_FOLDER = DATA / "readings"
Kind = TypeVar("Kind")


def path_of(variant: str, name: str) -> Path:
    """Return the file of a pipeline's readings; each variant of a benchmark has its own."""
    return _FOLDER / variant / f"{name}.json"


def add_fresh(parser: argparse.ArgumentParser) -> None:
    """Add the option to measure anew, and what `once` passes to a process of its own."""
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument("--apart", help=argparse.SUPPRESS)


def once(variant: str, name: str, kind: type[Kind], module: str, is_fresh: bool) -> Kind:
    """Return earlier readings if there are any, and unless `is_fresh`; else run `module` to make them.

    The module gets this process's arguments, `--apart` and the name. Each reading has a process of its own, as a user's
    training does: what a batch costs depends on what was freed before it.
    """
    known = None if is_fresh else kept(variant, name, kind)
    if known is None:
        subprocess.run([sys.executable, "-m", module, *sys.argv[1:], "--apart", name], check=True)
        known = kept(variant, name, kind)
    assert known is not None
    return known


def kept(variant: str, name: str, kind: type[Kind]) -> Kind | None:
    """Return earlier readings; None if there are none, or of another form."""
    try:
        return msgspec.json.decode(path_of(variant, name).read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def keep(variant: str, name: str, readings: Any) -> None:
    """Write readings so that the file is whole or missing; numbers of numpy as any others."""
    path = path_of(variant, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    draft.write_bytes(msgspec.json.encode(readings, enc_hook=float))
    draft.replace(path)
