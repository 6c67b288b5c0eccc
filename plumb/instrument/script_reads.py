"""Names that the script may read besides its samples: those in all of the user's code except that of the samples."""

from __future__ import annotations

import contextlib
import dis
import inspect
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType

from plumb.instrument.code_names import is_users_module, runs_unnamed

_Key = tuple[str, int, str]


def names_read_elsewhere(of_samples: Iterable[FunctionType]) -> frozenset[str]:
    """Return all names that the user's code reads, without the code that makes samples.

    Code that sets up an object doesn't count, and a method counts only if other code names it.
    """
    skipped = {_key(function.__code__) for function in of_samples}
    names: set[str] = set()
    methods: list[tuple[str, set[str]]] = []
    for code, is_method in _codes_of_user():
        if _key(code) in skipped:
            continue
        is_special = code.co_name.startswith("__") and code.co_name.endswith("__")
        if not is_method or (is_special and runs_unnamed(code.co_name)):
            names |= _names_in(code)
        elif not is_special:
            methods.append((code.co_name, _names_in(code)))
    while True:
        called = [found for name, found in methods if name in names]
        methods = [method for method in methods if method[0] not in names]
        if not called:
            return frozenset(names)
        names = names.union(*called)


def _codes_of_user() -> Iterator[tuple[CodeType, bool]]:
    """Yield the code of the user's modules and of all functions in them, and whether it is a method's."""
    for module in [each for each in list(sys.modules.values()) if type(each) is ModuleType]:
        if is_users_module(module):
            code = _code_of_module(module)
            # A notebook has no file: its functions are known, and its cells while they run.
            codes = [code] if code else [*_functions_of(module), *_cells()]
            for each in codes:
                yield from _inner(each, is_method=False)


def _inner(code: CodeType, is_method: bool) -> Iterator[tuple[CodeType, bool]]:
    yield code, is_method
    is_class = not code.co_flags & inspect.CO_OPTIMIZED and code.co_name != "<module>"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _inner(constant, is_class)


def _code_of_module(module: ModuleType) -> CodeType | None:
    """Return a module's code: its loader's compiled one if available, else compiled from its file."""
    get_code = getattr(getattr(module, "__loader__", None), "get_code", None)
    if get_code is not None and module.__name__ not in ("__main__", "__mp_main__"):
        with contextlib.suppress(Exception):
            found = get_code(module.__name__)
            if isinstance(found, CodeType):
                return found
    file = getattr(module, "__file__", None)
    try:
        with open(file or "", "rb") as source:
            return compile(source.read(), str(file), "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return None


def _functions_of(module: ModuleType) -> list[CodeType]:
    return [value.__code__ for value in list(vars(module).values()) if isinstance(value, FunctionType)]


def _cells() -> Iterator[CodeType]:
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == "<module>":
            yield frame.f_code


def _names_in(code: CodeType) -> set[str]:
    """Return the names that one code object loads, without the functions inside it."""
    found = {each.argval for each in dis.get_instructions(code) if each.opname.startswith("LOAD_")}
    return {name for name in found if isinstance(name, str)} & {*code.co_names, *code.co_freevars, *code.co_cellvars}


def _key(code: CodeType) -> _Key:
    return code.co_filename, code.co_firstlineno, code.co_name
