"""Temporary files and folders that a script's own exit would remove, if the tuning did not end the script before."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

from plumb.journal.change_recorder import ChangeRecorder

_REMOVERS = frozenset({"rmtree", "remove", "unlink", "rmdir", "cleanup", "removedirs"})
# Depth to which a handler's values are searched for paths.
_DEPTH = 2
_FRAMES = 8
_VALUES_AT_MOST = 200

_made: set[str] = set()
_with_finalizer: set[str] = set()
_handlers: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []


def install(recorder: ChangeRecorder) -> None:
    """Record the exit handlers that the script registers, in this process only."""
    register: Callable[..., Any] = atexit.register
    owner = os.getpid()

    @functools.wraps(register)
    def noting(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if os.getpid() == owner:
            _handlers.append((func, args, kwargs))
            _note(recorder, _removed_by(func, args, kwargs))
        return register(func, *args, **kwargs)

    atexit.register = noting


def goes_by_itself(path: str, frame: FrameType | None) -> bool:
    """Return whether Python removes a temporary file or folder, made on behalf of `frame`, at the script's exit.

    The path is remembered in any case, because a handler of the script may remove it.
    """
    _made.add(os.path.abspath(path))
    for _ in range(_FRAMES):
        if frame is None:
            return False
        if frame.f_code is tempfile.TemporaryDirectory.__init__.__code__:
            _with_finalizer.add(path)
        if frame.f_code in _owners():
            return bool(frame.f_locals.get("delete", True))
        frame = frame.f_back
    return False


def note_exit(recorder: ChangeRecorder) -> None:
    """Note what the exit of this process would remove, according to its present handlers and finalizers."""
    for func, args, kwargs in _handlers:
        _note(recorder, _removed_by(func, args, kwargs))
    registry: dict[Any, Any] = getattr(weakref.finalize, "_registry", {})
    waiting = {str(argument) for info in registry.values() for argument in info.args}
    for info in list(registry.values()):
        if info.atexit:
            _note(recorder, _removed_by(info.func, tuple(info.args), dict(info.kwargs or {})))
    for path in _with_finalizer - waiting:
        # The script has detached the finalizer in order to keep the folder.
        recorder.note_scratch(path, goes=False)


def _note(recorder: ChangeRecorder, paths: Iterable[str]) -> None:
    for path in paths:
        recorder.note_scratch(path)


@functools.cache
def _owners() -> frozenset[CodeType]:
    import multiprocessing.util

    folder, file = tempfile.TemporaryDirectory.__init__, tempfile.NamedTemporaryFile
    return frozenset((folder.__code__, file.__code__, multiprocessing.util.get_temp_dir.__code__))


def _removed_by(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[str]:
    """Yield the script's temporary paths that a handler removes, without calling it.

    A handler removes paths if it is one of Python's removers, or if its code names one. It is only inspected, because
    it is the user's code and may save things. Only paths that the script got from `tempfile` count.
    """
    called: Any = func
    while isinstance(called, functools.partial):
        called, args, kwargs = called.func, (*called.args, *args), {**called.keywords, **kwargs}
    values: list[Any] = [*args, *kwargs.values()]
    if isinstance(called, MethodType):
        values.append(called.__self__)
    function: Any = getattr(called, "__func__", called)
    if function is not shutil.rmtree and isinstance(function, FunctionType):
        names = function.__code__.co_names
        if not _REMOVERS.intersection(names):
            return
        values += [function.__globals__[name] for name in names if name in function.__globals__]
        values += [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    elif getattr(function, "__name__", "") not in _REMOVERS:
        return
    yield from {path for value in values for path in _paths_in(value, _DEPTH)} & _made


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _paths_in(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, (str, bytes, os.PathLike)):
        yield os.path.abspath(os.fsdecode(value))
    elif depth and isinstance(value, (list, tuple, set, frozenset)):
        for part in list(value)[:_VALUES_AT_MOST]:
            yield from _paths_in(part, depth - 1)
    elif depth and type(value).__module__ != "builtins":
        for part in list(getattr(value, "__dict__", {}).values())[:_VALUES_AT_MOST]:
            yield from _paths_in(part, depth - 1)
