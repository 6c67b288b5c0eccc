"""Checks of typed arguments: a script or a module that can be run, and a study that can be opened."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
import tokenize
from importlib.machinery import ModuleSpec
from pathlib import Path

from plumb.core.errors import CommandError
from plumb.host.folder_check import existing_part, why_no_files
from plumb.tuning.child_orders import Target


def parse_target(words: list[str]) -> tuple[Target, list[str]]:
    """Return the script, or `-m module`, and its arguments. Raise CommandError if there is nothing to run."""
    if words[:1] == ["-m"]:
        if len(words) < 2:
            raise CommandError("-m needs the name of a module", 2)
        if _spec_of(words[1]) is None:
            raise CommandError(f"no module named {words[1]}", 2)
        return Target(words[1], is_module=True), words[2:]
    if not words:
        raise CommandError("name a script to run, for example: plumb tune train.py", 2)
    _check_script(Path(words[0]))
    return Target(words[0], is_module=False), words[1:]


def parse_study(url: str | None) -> str | None:
    """Return an Optuna storage's address that is valid in any folder. Raise StudyError if it can't be used."""
    if url is None:
        return None
    from plumb.tuning.search.study_storage import located, storage_at

    where = located(url)
    storage_at(where)
    return where


def source_file(target: Target) -> Path:
    """Return the file of a script, or of a module that can be found."""
    if not target.is_module:
        return Path(target.name)
    spec = _spec_of(target.name)
    return Path(spec.origin) if spec is not None and spec.origin else Path(target.name)


def check_folder(folder: Path, refusal: str, may_be_new: bool = False) -> None:
    """Raise CommandError, which ends with `refusal`, if no file can be made in a folder.

    With `may_be_new`, the folder itself may still have to be made.
    """
    existing = existing_part(folder) if may_be_new else folder
    if not existing.is_dir():
        raise CommandError(f"{existing} is not a folder: {refusal}", 2)
    if why := why_no_files(existing):
        raise CommandError(f"{folder} takes no files ({why}): {refusal}", 2)


def _spec_of(name: str) -> ModuleSpec | None:
    """Return a module as `python -m` would find it in the current folder; None if there is none."""
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    finally:
        sys.path.pop(0)


def _check_script(path: Path) -> None:
    if path.is_dir():
        raise CommandError(f"{path} is a folder; name the script in it", 2)
    try:
        with tokenize.open(path) as file:
            ast.parse(file.read(), str(path))
    except OSError as error:
        raise CommandError(f"{path}: {(error.strerror or str(error)).lower()}", 2) from None
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise CommandError(f"{path}{line} is not Python: {error.msg}", 2) from None
    except (UnicodeDecodeError, ValueError):
        raise CommandError(f"{path} is not Python source", 2) from None
