"""Byte code of functions, the names that it reads, and versions of packages."""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib.machinery
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from types import CodeType
from typing import Any

from plumb.instrument.callee import is_user_file

_DIGEST_BYTES = 8
# A longer text is no name.
_LONGEST_NAME = 64


@dataclass(frozen=True)
class Names:
    """Names in a function and in those defined inside it.

    `module_level` are names looked up in its module, `imported` the modules that it imports at run time. `attributes`
    are all names, and the texts among its constants, because an attribute may be read by a text.
    """

    module_level: frozenset[str]
    imported: frozenset[str]
    attributes: frozenset[str]


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> Names:
    """Return the names in `code`."""
    module_level, imported, attributes = set(), set(), set()
    for inner in with_inner(code):
        attributes |= {*inner.co_names, *_texts(inner.co_consts)}
        for instruction in dis.get_instructions(inner):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                module_level.add(instruction.argval)
            elif instruction.opname == "IMPORT_NAME":
                imported.add(instruction.argval)
    return Names(frozenset(module_level), frozenset(imported), frozenset(attributes))


def _texts(constants: tuple[Any, ...]) -> Iterator[str]:
    """Yield the short texts among constants, also in tuples, where patterns name attributes."""
    for constant in constants:
        if type(constant) is tuple:
            yield from _texts(constant)
        elif type(constant) is str and len(constant) < _LONGEST_NAME:
            yield constant


def with_inner(code: CodeType) -> list[CodeType]:
    """Return `code` and all code defined inside it."""
    found, pending = [], [code]
    while pending:
        each = pending.pop()
        found.append(each)
        pending += [const for const in each.co_consts if isinstance(const, CodeType)]
    return found


@functools.lru_cache(maxsize=4096)
def digest_of_code(code: CodeType) -> str:
    """Return a digest of what `code` does, without its file and lines."""
    return hashlib.blake2b(repr(_parts(code)).encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def _parts(code: CodeType) -> tuple[Any, ...]:
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return code.co_name, code.co_code, [_constant(const) for const in code.co_consts], arguments, names


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _parts(value)
    if isinstance(value, frozenset):
        # Their order differs between processes.
        return "frozenset", sorted(repr(_constant(item)) for item in value)
    if isinstance(value, tuple):
        return "tuple", [_constant(item) for item in value]
    return type(value).__name__, repr(value)


def file_digest(module: str) -> str | None:
    """Return a digest of the source of a user's module; None for a library's, or without a file."""
    loaded = sys.modules.get(module)
    filename = getattr(loaded, "__file__", None) if loaded is not None else _origin(module)
    if not isinstance(filename, str) or not is_user_file(filename):
        return None
    try:
        with open(filename, "rb") as file:
            return hashlib.blake2b(file.read(), digest_size=_DIGEST_BYTES).hexdigest()
    except OSError:
        return None


def _origin(module: str) -> str | None:
    """Return the file of a module that was not imported yet, without importing anything."""
    parent = module.rpartition(".")[0]
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    if parent and path is None:
        return None
    try:
        spec = importlib.machinery.PathFinder.find_spec(module, path)
    except Exception:
        return None
    return None if spec is None else spec.origin


@functools.cache
def package_version(package: str) -> str:
    """Return the version of a package; if it has none, its file's modification time."""
    if package == "python":
        return platform.python_version()
    module = sys.modules.get(package)
    version = getattr(module, "__version__", None)
    if isinstance(version, str):
        return str(version)
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):
        filename = getattr(module, "__file__", None)
        return str(os.stat(filename).st_mtime_ns) if filename and os.path.isfile(filename) else "unknown"
