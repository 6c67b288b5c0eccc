"""Whether the user's main module can be imported by a worker without running the training once more."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from plumb.config import Config


def main_is_guarded() -> bool:
    """Whether the main module has an `if __name__ == "__main__"`; False where there is no source to look at."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    try:
        tree = ast.parse(Path(file).read_bytes()) if file else None
    except (OSError, SyntaxError, ValueError):
        return False
    return tree is not None and any(isinstance(node, ast.If) and _asks_for_main(node.test) for node in tree.body)


def runs_script_again(config: Config) -> bool:
    """Whether workers that are started as `config` says would run the main module's code, training and all."""
    return bool(config.num_workers) and config.start_method not in (None, "fork") and not main_is_guarded()


def _asks_for_main(test: ast.expr) -> bool:
    names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    values = {node.value for node in ast.walk(test) if isinstance(node, ast.Constant)}
    return "__name__" in names and "__main__" in values
