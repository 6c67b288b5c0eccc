"""Names that code reads: globals, those of the user's modules, and attributes."""

from __future__ import annotations

import contextlib
import dis
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

from plumb.instrument.callee import is_user_file

# Code that has one of these names may read attributes whose names are not in it.
_BY_ANY_NAME = frozenset(("vars", "__dict__", "__getattribute__", "eval", "exec", "asdict", "astuple"))
# These take the name, usually a constant; code that computes it with one of the following may read any attribute.
_BY_GIVEN_NAME = frozenset(("getattr", "setattr", "hasattr", "attrgetter", "methodcaller"))
_COMPUTES = ("BINARY", "FORMAT", "BUILD_STRING", "LOAD_ATTR", "LOAD_METHOD")
# All special methods run without being named, except those that make, show or send an object.
_NEVER_RUN = frozenset(("__init__", "__new__", "__del__", "__repr__", "__getstate__", "__setstate__", "__reduce__",
                        "__reduce_ex__", "__init_subclass__", "__set_name__", "__class_getitem__"))  # fmt: skip
_GLOBAL = frozenset(("LOAD_GLOBAL", "LOAD_NAME"))
_ATTRIBUTE = frozenset(("LOAD_ATTR", "LOAD_METHOD"))


@dataclass(frozen=True)
class CodeNames:
    """Names in a function's code and in the functions inside it.

    `paths` are global names, each with the attributes that are read from it directly: `("settings", "size")` for
    `settings.size`. `imported` are modules that the code imports itself. `attributes` are all names that are no
    variables. `reads_any`: the code may read attributes by computed names.
    """

    paths: tuple[tuple[str, ...], ...]
    imported: tuple[str, ...]
    attributes: frozenset[str]
    reads_any: bool

    @property
    def reads_environment(self) -> bool:
        """True if the code may read environment variables."""
        return "environ" in self.attributes or "getenv" in self.attributes


# Keyed by identity, because hashing a code object takes longer than the lookup. The reference keeps the id valid.
_known: dict[int, tuple[CodeType, CodeNames]] = {}


def names_of(code: CodeType) -> CodeNames:
    """Return the names in `code`, which is disassembled once."""
    found = _known.get(id(code))
    if found is None:
        found = _known[id(code)] = code, _disassembled(code)
    return found[1]


def globals_read(function: FunctionType) -> list[tuple[str, Any]]:
    """Return the values that a function's code may read by global names, each with its name for people.

    Modules are not included; for the user's own modules, the values that the code reads from them are.
    """
    names = names_of(function.__code__)
    found: dict[str, Any] = {}
    for path in names.paths:
        if path[0] in function.__globals__:
            found.update(_along(function.__globals__[path[0]], path, names.attributes))
    package = function.__globals__.get("__package__")
    for name in names.imported:
        module = sys.modules.get(name) or sys.modules.get(f"{package}.{name}".rstrip("."))
        found.update(_in_module(module, name, names.attributes))
    if names.reads_environment:
        found["os.environ"] = getattr(os.environ, "_data", None)
    return list(found.items())


def closed_over(function: FunctionType) -> list[tuple[str, Any]]:
    """Return the values of a function's free variables that are set, with their names."""
    found = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # not set yet
            found.append((name, cell.cell_contents))
    return found


def runs_unnamed(name: str) -> bool:
    """Return whether a special method of a class may take part in making samples although no code names it."""
    return name not in _NEVER_RUN


def is_users_module(module: ModuleType) -> bool:
    """Return whether a module's file is the user's own."""
    file = getattr(module, "__file__", None)
    return module.__name__ == "__main__" or (isinstance(file, str) and is_user_file(file))


def _along(value: Any, path: tuple[str, ...], attributes: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Yield the values to which the attributes of `path` lead, as long as they lead through modules."""
    for place, name in enumerate(path[1:], 1):
        if not isinstance(value, ModuleType):
            yield ".".join(path[:place]), value
            return
        if not is_users_module(value) or name not in vars(value):
            yield from _in_module(value, ".".join(path[:place]), attributes)
            return
        value = vars(value)[name]
    if isinstance(value, ModuleType):
        yield from _in_module(value, ".".join(path), attributes)
    else:
        yield ".".join(path), value


def _in_module(module: ModuleType | None, name: str, attributes: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Yield the values that the code may read from a user's module whose name in the code is unknown."""
    if module is None or not is_users_module(module):
        return
    for attribute in attributes & vars(module).keys():
        if not isinstance(vars(module)[attribute], ModuleType):
            yield f"{name}.{attribute}", vars(module)[attribute]


def _disassembled(code: CodeType) -> CodeNames:
    paths: dict[tuple[str, ...], None] = {}
    imported: dict[str, None] = {}
    attributes: set[str] = set()
    reads_any = False
    for inner in _codes(code):
        attributes.update(inner.co_names)
        path: tuple[str, ...] = ()
        instructions = list(dis.get_instructions(inner))
        given = _given_names(instructions)
        attributes.update(given or ())
        reads_any = reads_any or given is None
        for instruction in instructions:
            if path and instruction.opname in _ATTRIBUTE:
                path = (*path, instruction.argval)
                continue
            if path:
                paths[path] = None
            path = (instruction.argval,) if instruction.opname in _GLOBAL else ()
            if instruction.opname == "IMPORT_NAME":
                imported[instruction.argval] = None
        if path:
            paths[path] = None
    return CodeNames(tuple(paths), tuple(imported), frozenset(attributes), reads_any or bool(attributes & _BY_ANY_NAME))


def _given_names(instructions: list[dis.Instruction]) -> set[str] | None:
    """Return the constant names passed to `getattr` and the like in a function; None if one is no constant."""
    found: set[str] = set()
    for place, instruction in enumerate(instructions):
        if instruction.argval not in _BY_GIVEN_NAME or not instruction.opname.startswith("LOAD"):
            continue
        names: list[str] = []
        for later in instructions[place + 1 :]:
            if later.opname.startswith("CALL"):
                break
            if later.opname == "LOAD_CONST" and isinstance(later.argval, str):
                names.append(later.argval)
            elif names and later.opname.startswith(_COMPUTES):
                return None
        if not names:
            return None
        found.update(names)
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
