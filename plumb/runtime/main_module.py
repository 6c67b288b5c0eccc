"""Whether the user's main module can be imported by a worker without running the training once more."""

from __future__ import annotations

import ast
import multiprocessing
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from plumb.config import Config

RUNS_AGAIN = (
    "would have workers that run the script once more; it runs as the script has it. "
    "Put the script's main part under: if __name__ == '__main__'"
)
"""What is said of a loader for which `runs_script_again`, after its name."""


def main_is_guarded() -> bool:
    """Whether the main module has an `if __name__ == "__main__"`; False where there is no source to look at."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    try:
        status = os.stat(file) if file else None
    except (OSError, ValueError):
        return False
    return file is not None and status is not None and _is_guarded(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _is_guarded(file: str, *changed: int) -> bool:
    """Parse a file once for each time that it was changed: this is asked in every epoch."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    return any(isinstance(node, ast.If) and _asks_for_main(node.test) for node in tree.body)


def runs_script_again(config: Config, context: Any = None) -> bool:
    """Return whether workers started on `config` would run the main module's code, training and all.

    `context` is the loader's own `multiprocessing_context`, if the script has given it one.
    """
    return bool(config.num_workers) and start_method(config, context) != "fork" and not main_is_guarded()


def start_method(config: Config | None = None, context: Any = None) -> str:
    """Return how workers will be started: as `config` says, else as `context` does, else as Python does by default.

    The default is only looked at: asking Python for it in the usual way would fix it, and a script that sets another
    one later would fail.
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
