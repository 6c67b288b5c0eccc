"""Entry points of libraries that write files from C without audit events, patched to notify the journal first.

An entry point is patched when its module has been imported. Writers missing here are still found when the script's
folders are compared (see `snapshot`).
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from plumb.journal.change_recorder import ChangeRecorder


@dataclass(frozen=True)
class Writer:
    """A function, or a class by its constructor, that writes a file from C.

    `path` is the place of the file's name among the arguments, by position and keyword. `mode` is the place of an
    argument that decides whether the file is written: with the values in `reads` it is not, and `unsaid` is the
    argument's default. A writer with `more` names takes a folder, in which it writes files of these names.
    """

    name: str
    path: tuple[int, str] = (0, "path")
    mode: tuple[int, str] | None = None
    reads: tuple[Any, ...] = ()
    unsaid: Any = None
    more: tuple[str, ...] = ()

    def file(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str | None:
        """Return the file that a call is about to write; None if it writes none, or an open file."""
        if self.mode is not None and _argument(self.mode, arguments, keywords, self.unsaid) in self.reads:
            return None
        path = _argument(self.path, arguments, keywords, None)
        return os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else None


_METHOD = 1
WRITERS: dict[str, tuple[Writer, ...]] = {
    "torch": (
        Writer("_C.PyTorchFileWriter", (_METHOD, "file_name")),
        Writer("_C.ScriptModule.save", (_METHOD, "filename")),
        Writer("from_file", (0, "filename"), (1, "shared"), (False, None)),
        Writer("UntypedStorage.from_file", (0, "filename"), (1, "shared"), (False, None)),
    ),
    "torch.jit": (Writer("save", (1, "f")),),
    "torch.autograd.profiler": (Writer("profile.export_chrome_trace", (_METHOD, "path")),),
    "torchvision.io.image": (
        Writer("write_file", (0, "filename")),
        Writer("write_png", (1, "filename")),
        Writer("write_jpeg", (1, "filename")),
    ),
    "torchaudio": (Writer("save", (0, "uri")),),
    "safetensors": (Writer("serialize_file", (1, "filename")),),
    "h5py._hl.files": (Writer("File", (_METHOD, "name"), (2, "mode"), ("r",), "r"),),
    "tables.file": (Writer("File", (_METHOD, "filename"), (2, "mode"), ("r",), "r"),),
    "netCDF4": (Writer("Dataset", (_METHOD, "filename"), (2, "mode"), ("r",), "r"),),
    "soundfile": (Writer("SoundFile", (_METHOD, "file"), (2, "mode"), ("r", None), "r"),),
    "cv2": (
        Writer("imwrite", (0, "filename")),
        Writer("imwritemulti", (0, "filename")),
        Writer("VideoWriter", (0, "filename")),
        Writer("FileStorage", (0, "filename"), (1, "flags"), (0,), 0),
    ),
    "pyarrow.parquet.core": (Writer("ParquetWriter", (_METHOD, "where")),),
    "pyarrow.feather": (Writer("write_feather", (1, "dest")),),
    "pyarrow.csv": (Writer("write_csv", (1, "output_file")),),
    "polars.dataframe.frame": tuple(
        Writer(f"DataFrame.write_{kind}", (_METHOD, "file")) for kind in ("parquet", "csv", "ipc", "json", "ndjson")
    ),
    "lmdb": (
        Writer("open", (0, "path"), (5, "readonly"), (True,), False, ("data.mdb", "lock.mdb")),
        Writer("Environment", (0, "path"), (5, "readonly"), (True,), False, ("data.mdb", "lock.mdb")),
    ),
    "_gdbm": (Writer("open", (0, "filename"), (1, "flags"), ("r",), "r"),),
    "transformers.tokenization_utils_base": (
        # Tokenizers are written from Rust, so no audit event is raised.
        Writer(
            "PreTrainedTokenizerBase.save_pretrained",
            (_METHOD, "save_directory"),
            more=("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt"),
        ),
    ),
    "xgboost.core": (Writer("Booster.save_model", (_METHOD, "fname")),),
    "lightgbm.basic": (Writer("Booster.save_model", (_METHOD, "filename")),),
    "faiss": (Writer("write_index", (1, "fname")),),
    "av.container.core": (Writer("open", (0, "file"), (1, "mode"), ("r", None), "r"),),
}


def install(recorder: ChangeRecorder, others: Mapping[str, Callable[[ModuleType], None]]) -> None:
    """Patch the entry points of imported modules now, and of all other modules when they are imported.

    Args:
        recorder: Recorder that is notified of each file about to be written.
        others: Functions to call with other modules when these have been imported, by the modules' names.

    """

    def patch(name: str, module: ModuleType) -> None:
        if name in others:
            others[name](module)
        else:
            _patch(recorder, name, module)

    for name in WRITERS:
        if name in sys.modules:
            _patch(recorder, name, sys.modules[name])
    sys.meta_path.insert(0, _WriterImportHook(frozenset(WRITERS) | frozenset(others), patch))


_ONLY_READS = ("SELECT", "EXPLAIN", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "ATTACH", "DETACH", "END")


def database_writes(statement: str) -> bool:
    """Return whether an SQL statement may change its database."""
    words = statement.split(None, 1)
    if words and words[0].upper() == "PRAGMA":
        return "=" in statement
    return bool(words) and not words[0].upper().startswith(_ONLY_READS)


def database_file(database: Any) -> str | None:
    """Return the file of an SQLite database that may be written; None for one in memory, or opened only for reading."""
    if not isinstance(database, (str, bytes, os.PathLike)):
        return None
    name = os.fsdecode(database)
    if name.startswith("file:"):
        parts = urlsplit(name)
        if "mode=ro" in parts.query or "mode=memory" in parts.query or "immutable=1" in parts.query:
            return None
        name = unquote(parts.path)
    return None if not name or name == ":memory:" else os.path.abspath(name)


class _WriterImportHook(importlib.abc.MetaPathFinder):
    """Finder that calls `then` with the name and the module each time a module of `names` has been imported."""

    def __init__(self, names: frozenset[str], then: Callable[[str, ModuleType], None]) -> None:
        self._names = names
        self._then = then
        self._looking_for: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._names or fullname in self._looking_for:
            return None
        self._looking_for.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._looking_for.discard(fullname)
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return spec
        execute = spec.loader.exec_module

        def execute_then_patch(module: ModuleType) -> None:
            execute(module)
            self._then(fullname, module)

        setattr(spec.loader, "exec_module", execute_then_patch)  # noqa: B010
        return spec


def _patch(recorder: ChangeRecorder, name: str, module: ModuleType) -> None:
    for writer in WRITERS[name]:
        *way, last = writer.name.split(".")
        owner: Any = module
        for step in way:
            owner = getattr(owner, step, None)
        found = getattr(owner, last, None)
        if found is None or hasattr(found, "_plumb_noted"):
            continue
        patched = _noting(recorder, writer, found)
        # A class's own function that takes no instance, such as torch's `UntypedStorage.from_file`, stays one.
        is_method = not inspect.isclass(owner) or writer.path[0] == _METHOD
        try:
            setattr(owner, last, patched if is_method else staticmethod(patched))
        except TypeError:
            # A class from C, whose methods can't be replaced.
            continue


def _noting(recorder: ChangeRecorder, writer: Writer, found: Any) -> Any:
    """Return the replacement of an entry point: a class with another constructor, or a function around the function."""
    if inspect.isclass(found):
        if _is_of_c(found):
            return _subclass(recorder, writer, found)
        setattr(found, "__init__", _wrapped(recorder, writer, vars(found)["__init__"]))  # noqa: B010
        return found
    return _wrapped(recorder, writer, found)


def _wrapped(recorder: ChangeRecorder, writer: Writer, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def noting(*arguments: Any, **keywords: Any) -> Any:
        _note(recorder, writer, arguments, keywords)
        return function(*arguments, **keywords)

    noting._plumb_noted = True  # type: ignore[attr-defined]
    return noting


def _subclass(recorder: ChangeRecorder, writer: Writer, base: type) -> Any:
    """Return a subclass that takes the place of `base`, a class from C; instances of `base` count as its own."""

    class Kind(type(base)):  # type: ignore[misc]
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, base)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, base)

        def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
            _note(recorder, writer, (None, *arguments) if writer.path[0] == _METHOD else arguments, keywords)
            return super().__call__(*arguments, **keywords)

    names = {"__doc__": base.__doc__, "__module__": base.__module__, "_plumb_noted": True}
    try:
        return Kind(base.__name__, (base,), names)
    except TypeError:
        # A class that can't be derived from is not replaced; but if its name is a function's, a function takes its
        # place.
        return _wrapped(recorder, writer, base) if writer.name.islower() else base


def _note(recorder: ChangeRecorder, writer: Writer, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    file = writer.file(arguments, keywords)
    if file is None:
        return
    if os.path.isdir(file):
        for name in writer.more:
            recorder.writing(os.path.join(file, name))
    elif not writer.more:
        recorder.writing(file)
    else:
        recorder.making_folder(file)


def _argument(place: tuple[int, str], arguments: tuple[Any, ...], keywords: dict[str, Any], otherwise: Any) -> Any:
    position, name = place
    return arguments[position] if len(arguments) > position else keywords.get(name, otherwise)


def _is_of_c(kind: type) -> bool:
    return not hasattr(vars(kind).get("__init__"), "__code__")
