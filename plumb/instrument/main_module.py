"""Check whether a worker can import the user's main module without running the training again."""

from __future__ import annotations

import ast
import multiprocessing
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from plumb.core.config import Config

RUNS_AGAIN = (
    "would have workers that run the script once more; it runs as the script has it. "
    "Put the script's main part under: if __name__ == '__main__'"
)
"""Message for a loader with `runs_script_again`, after its name."""


def main_is_guarded() -> bool:
    """Return whether the main module has an `if __name__ == "__main__"`; False without source."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    try:
        status = os.stat(file) if file else None
    except (OSError, ValueError):
        return False
    return file is not None and status is not None and _is_guarded(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _is_guarded(file: str, *changed: int) -> bool:
    """Parse a file once per modification, because every epoch calls this."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    return any(isinstance(node, ast.If) and _asks_for_main(node.test) for node in tree.body)


def runs_script_again(config: Config, context: Any = None) -> bool:
    """Return whether workers started on `config` would run the main module's code, including the training.

    `context` is the loader's own `multiprocessing_context`, None if the script has not set one.
    """
    return bool(config.num_workers) and start_method(config, context) != "fork" and not main_is_guarded()


def start_method(config: Config | None = None, context: Any = None) -> str:
    """Return the start method of workers: that of `config`, else of `context`, else Python's default.

    The default is read without fixing it, which the usual call would do: a script that sets another one later would
    then fail.
    """
    if config is not None and config.start_method:
        return config.start_method
    if context is not None:
        return context if isinstance(context, str) else str(context.get_start_method())
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


def _asks_for_main(test: ast.expr) -> bool:
    names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    values = {node.value for node in ast.walk(test) if isinstance(node, ast.Constant)}
    return "__name__" in names and "__main__" in values
