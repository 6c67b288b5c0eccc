"""Facts that determine a dataset's samples, collected in bounded time: code, classes, flags, numbers and texts.

The walk begins at the dataset and at the loader's functions, and follows attributes, items, closures, defaults and the
module values that code reads, whatever module they are in. Of a user class's object only those attributes and methods
count that some function on the way names: `args.lr` is no part of a dataset that never reads `lr`. The contents of
large collections and arrays are data, which belong to a store's fingerprint, but not to the conditions of a rewrite.

Never calls the user's code: neither `__len__` nor `__getattr__`, `__eq__` or `__bool__` of any object.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
import types
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plumb.core.identity import Facts
from plumb.core.printable import printable
from plumb.instrument.byte_code import digest_of_code, file_digest, names_in, package_version
from plumb.instrument.callee import is_dataset, is_step, is_user_class, is_user_code, is_user_file
from plumb.instrument.fact_parts import class_path, has_parts, inside, is_all_the_users, spread
from plumb.instrument.object_parts import attributes_of
from plumb.instrument.script_options import options_of_library, options_of_process
from plumb.instrument.simple_values import (
    in_words,
    is_plain,
    is_small_array,
    kind_of,
    module_name,
    shape_of,
    text_digest,
)

# Largest number of visited objects, and of facts of one kind.
_MOST_OBJECTS, _MOST_FACTS = 5_000, 400
# Collections of more items than this are data.
_FEW = 32
# Dictionaries whose keys are texts are options, up to this size.
_MOST_OPTIONS = 256
# Depth to which libraries' objects inside each other are followed.
_LIBRARY_DEPTH = 8
_COLLECTIONS: tuple[Any, ...] = (list, tuple, set, frozenset, deque)
_PLAIN_COLLECTIONS = frozenset((list, tuple, dict, set, frozenset))
# Code that names one of these may read attributes by names that can't be seen.
_READS_ANY = frozenset(
    ("getattr", "vars", "__dict__", "__getattribute__", "attrgetter", "methodcaller", "asdict", "astuple", "fields",
     "eval", "exec", "locals", "globals", "dir", "getmembers")
)  # fmt: skip
# Metadata of a class, and methods that make, copy or print an object: no sample runs them.
_NOT_RUN = frozenset(
    ("__dict__", "__weakref__", "__module__", "__doc__", "__annotations__", "__annotate__", "__annotate_func__",
     "__annotations_cache__", "__abstractmethods__", "_abc_impl", "__orig_bases__", "__parameters__", "__type_params__",
     "__firstlineno__", "__slotnames__", "__static_attributes__", "__dataclass_fields__", "__dataclass_params__",
     "__match_args__", "__slots__", "__hash__", "__qualname__", "__classcell__", "__repr__", "__str__", "__del__",
     "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__copy__", "__deepcopy__", "__replace__",
     "__subclasshook__", "__init_subclass__", "__class_getitem__", "__test__")
)  # fmt: skip
# Ranks differ between the processes of one job.
_RANK = re.compile(r"(^|[.'\[])_?(local_|global_|world_|node_|process_)?rank\W*$")
_MAKING = frozenset(("__init__", "__new__", "__post_init__"))
_UNNAMED = (staticmethod, classmethod)

# Modules imported by functions at run time that did not exist at the first look. Their later content doesn't count in
# this process, because a first sample that imports them must not change the facts about a dataset.
_absent: set[str] = set()


def facts_of(roots: Mapping[str, Any]) -> Facts:
    """Return the facts about `roots`, such as a dataset and a collate function, by their names."""
    walk = _FactsWalk()
    for path, value in roots.items():
        walk.look(path, value)
    return walk.facts()


def facts_about(loader: Any) -> Facts:
    """Return the facts about the samples and batches of a loader."""
    return facts_of(
        {"dataset": loader.dataset, "collate_fn": loader.collate_fn, "worker_init_fn": loader.worker_init_fn}
    )


def functions_of(roots: Mapping[str, Any]) -> list[types.FunctionType]:
    """Return the user's functions that samples made from `roots` may run."""
    walk = _FactsWalk()
    for path, value in roots.items():
        walk.look(path, value)
    walk.facts()
    return walk.functions()


@dataclass(frozen=True)
class _FoundValue:
    """A value on the walk. `is_data`: it is one of many; `depth`: number of libraries' objects around it."""

    path: str
    value: Any
    is_data: bool = False
    depth: int = 0


class _FactsWalk:
    """Walk through objects in the order of their distance from the roots."""

    def __init__(self) -> None:
        self._facts = Facts()
        self._pending: deque[_FoundValue] = deque()
        # Refers to the objects, so that no id is reused meanwhile.
        self._met: dict[tuple[int, bool], tuple[str, Any]] = {}
        # By a class's id: whether its constructor was visited, too.
        self._classes: dict[int, bool] = {}
        self._names: set[str] = set()
        self._reads_any = False
        self._unread: dict[str, list[_FoundValue]] = {}
        self._versions: set[str] = set()

    def facts(self) -> Facts:
        """Walk to the end, and return the facts."""
        looked_at = 0
        while self._pending and looked_at < _MOST_OBJECTS:
            self._visit(self._pending.popleft())
            looked_at += 1
        for package in sorted(self._versions | {"python", "torch"}):
            self._facts.kinds[f"{package} (version)"] = package_version(package)
        return Facts(*(_at_most(facts) for facts in (self._facts.code, self._facts.kinds, self._facts.values)))

    def functions(self) -> list[types.FunctionType]:
        """Return the user's functions that were visited."""
        return [value for _, value in self._met.values() if is_user_code(value)]

    def look(self, path: str, value: Any, is_data: bool = False, depth: int = 0) -> None:
        """Record a simple value; queue any other one for a visit."""
        words = in_words(value)
        if words is None:
            self._pending.append(_FoundValue(path, value, is_data, depth))
        elif not is_data and _RANK.search(path) is None:
            self._facts.values[path] = words

    def _look_where_read(self, found: _FoundValue, name: str) -> None:
        """Visit an attribute as soon as code names it."""
        if self._reads_any or name in self._names:
            self.look(found.path, found.value, found.is_data, found.depth)
        else:
            self._unread.setdefault(name, []).append(found)

    def _read(self, names: Iterable[str]) -> None:
        """Record names that code reads."""
        new = set(names) - self._names
        self._names |= new
        if not self._reads_any and not _READS_ANY.isdisjoint(new):
            self._reads_any = True
            new = set(self._unread)
        for name in sorted(new & self._unread.keys()):
            for found in self._unread.pop(name):
                self.look(found.path, found.value, found.is_data, found.depth)

    # ---- one value

    def _visit(self, found: _FoundValue) -> None:
        value, kind = found.value, type(found.value)
        is_tuple = issubclass(kind, tuple)
        if not is_tuple and self._was_met(found):
            return
        if issubclass(kind, types.FunctionType):
            self._function(found, value)
        elif issubclass(kind, type):
            self._note(found, f"class {class_path(value)}")
            self._class(value, is_called=True)
        elif issubclass(kind, types.ModuleType):
            self._module(found, value)
        elif issubclass(kind, types.MethodType):
            self._note(found, "method")
            self._onwards(found, {"__func__": value.__func__, "__self__": value.__self__})
        elif issubclass(kind, functools.partial):
            self._note(found, "partial")
            self._onwards(found, {"func": value.func, "args": value.args, "keywords": value.keywords})
        elif issubclass(kind, types.BuiltinFunctionType):
            self._note(found, f"{module_name(value.__module__)}.{value.__qualname__}")
            self._version(value.__module__)
            self._compiled(value.__module__)
        elif issubclass(kind, (property, types.CellType, *_UNNAMED)):
            for inner in inside(value):
                self.look(found.path, inner, found.is_data, found.depth)
        elif (shape := shape_of(value)) is not None:
            self._note(found, shape)
            if not found.is_data and (small := is_small_array(value)):
                self._facts.values[found.path] = small
        else:
            self._object(found, value)

    def _was_met(self, found: _FoundValue) -> bool:
        key = id(found.value), found.is_data
        if key in self._met:
            first = self._met[key][0]
            if found.path != first:
                self._note(found, kind_of(found.value) if callable(found.value) else f"the same as {first}")
            return True
        self._met[key] = found.path, found.value
        return False

    def _note(self, found: _FoundValue, kind: str) -> None:
        if not found.is_data:
            self._facts.kinds[found.path] = kind

    def _onwards(self, found: _FoundValue, parts: Mapping[str, Any]) -> None:
        for name, part in parts.items():
            self.look(f"{found.path}.{name}", part, found.is_data, found.depth)

    def _version(self, module: Any) -> None:
        if isinstance(module, str):
            package = module.partition(".")[0]
            if package not in sys.stdlib_module_names and package not in ("__main__", "__mp_main__"):
                self._versions.add(package)

    # ---- code

    def _function(self, found: _FoundValue, function: types.FunctionType) -> None:
        self._note(found, kind_of(function))
        closed = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        wrapped = vars(function).get("__wrapped__")
        within = {f"<{name}>": cell for name, cell in closed.items()}
        if wrapped is not None:
            within["__wrapped__"] = wrapped
        if not is_user_code(function):
            # A library's decorator may hold what it decorates.
            self._version(function.__module__)
            if found.depth < _LIBRARY_DEPTH:
                for name, part in within.items():
                    self.look(f"{found.path}.{name}", part, found.is_data, found.depth + 1)
            return
        code, module = function.__code__, module_name(function.__module__)
        label, digest = f"{module}.{function.__qualname__}", digest_of_code(code)
        if self._facts.code.setdefault(label, digest) != digest:
            self._facts.code[f"{label} at {found.path}"] = digest
        defaults = {f"<default {place}>": value for place, value in enumerate(function.__defaults__ or ())}
        named = {f"<default {name}>": value for name, value in (function.__kwdefaults__ or {}).items()}
        self._onwards(found, {**defaults, **named, **within})
        names = names_in(code)
        self._read(names.attributes)
        self._facts.values.update(options_of_process(names.attributes))
        for name in sorted(names.module_level):
            if name in function.__globals__:
                self.look(f"{module}.{name}", function.__globals__[name], found.is_data)
        for name in sorted(names.imported):
            self._imported(name, function)

    def _imported(self, name: str, function: types.FunctionType) -> None:
        """Visit a module that a function imports at run time."""
        package = function.__globals__.get("__package__") or ""
        full = next((each for each in (name, f"{package}.{name}") if each in sys.modules), None)
        digest = file_digest(full or name)
        if digest is not None:
            self._facts.code[f"module {full or name}"] = digest
        if full is None or full in _absent:
            _absent.add(full or name)
        else:
            self.look(full, sys.modules[full])

    def _module(self, found: _FoundValue, module: types.ModuleType) -> None:
        name = module_name(module.__name__)
        self._note(found, f"module {name}")
        filename = vars(module).get("__file__")
        is_users = name == "__main__" or (isinstance(filename, str) and is_user_file(filename))
        if not is_users:
            self._version(name)
            return
        self._compiled(name)
        for member, value in sorted(vars(module).items()):
            if not member.startswith("__"):
                self._look_where_read(_FoundValue(f"{name}.{member}", value, found.is_data), member)

    def _compiled(self, name: Any) -> None:
        """Record the file's digest of a user's module without byte code."""
        filename = getattr(sys.modules.get(name), "__file__", None) if isinstance(name, str) else None
        if isinstance(filename, str) and not filename.endswith(".py"):
            digest = file_digest(name)
            if digest is not None:
                self._facts.code[f"module {name}"] = digest

    def _class(self, kind: type, is_called: bool) -> None:
        """Visit what a class does; its constructor counts if the class `is_called`."""
        if self._classes.get(id(kind), -1) >= is_called:
            return
        self._classes[id(kind)] = is_called
        leads_on = not is_all_the_users(kind)
        for each in kind.__mro__:
            if not is_user_class(each):
                self._version(each.__module__)
                continue
            self._facts.kinds[f"class {class_path(each)}"] = ", ".join(class_path(base) for base in each.__bases__)
            for name, member in sorted(vars(each).items()):
                if name in _NOT_RUN or name.startswith("_plumb") or (name in _MAKING and not is_called):
                    continue
                found = _FoundValue(f"{class_path(each)}.{name}", member)
                if leads_on or name.startswith("__"):
                    self.look(found.path, member)
                else:
                    self._look_where_read(found, name)

    # ---- objects

    def _object(self, found: _FoundValue, value: Any) -> None:
        kind = type(value)
        is_mapping, is_collection = issubclass(kind, dict), issubclass(kind, _COLLECTIONS)
        if is_mapping:
            self._note(found, class_path(kind))
            self._mapping(found, value)
        elif is_collection:
            self._collection(found, value)
        else:
            self._note(found, class_path(kind))
        if kind in _PLAIN_COLLECTIONS:
            return
        is_users = any(map(is_user_class, kind.__mro__))
        if is_users:
            self._class(kind, is_called=False)
        else:
            self._version(kind.__module__)
        attributes = attributes_of(value)
        if not attributes:
            return
        options = options_of_library(value)
        if is_users or kind in (argparse.Namespace, types.SimpleNamespace) or options is not None:
            reads_all = options is None and (not is_all_the_users(kind) or is_mapping or is_collection)
            depth, attributes = found.depth, attributes if options is None else options
        elif found.depth < _LIBRARY_DEPTH and has_parts(value):
            reads_all, depth = True, found.depth + 1
        else:
            # An object that wraps a user's function, such as a cache or a property, runs it.
            for name, inner in attributes.items():
                if is_user_code(inner):
                    self.look(f"{found.path}.{name}", inner, found.is_data, found.depth + 1)
            return
        for name in sorted(attributes, key=str):
            if not str(name).startswith("_plumb"):
                part = _FoundValue(f"{found.path}.{name}", attributes[name], found.is_data, depth)
                if reads_all:
                    self.look(part.path, part.value, part.is_data, part.depth)
                else:
                    self._look_where_read(part, name)

    def _mapping(self, found: _FoundValue, value: dict[Any, Any]) -> None:
        length = dict.__len__(value)
        are_options = length <= _MOST_OPTIONS and all(type(key) is str for key in dict.keys(value))
        if are_options and not found.is_data:
            for key, item in dict.items(value):
                self.look(f"{found.path}[{key!r}]", item, False, found.depth)
            return
        for item in spread(dict.values(value), length, found.is_data):
            self._one_of_many(found, item)

    def _collection(self, found: _FoundValue, value: Any) -> None:
        base = next(each for each in _COLLECTIONS if issubclass(type(value), each))
        length = base.__len__(value)
        self._note(found, f"{class_path(type(value))} of {length:,}")
        if length > _FEW or found.is_data:
            for item in spread(base.__iter__(value), length, found.is_data, value if base in (list, tuple) else None):
                self._one_of_many(found, item)
            return
        if base in (set, frozenset):
            items = list(base.__iter__(value))
            words = sorted(word for word in map(in_words, items) if word is not None)
            self._facts.values[found.path] = f"{{{', '.join(words)}}}"
            for item in items:
                self._one_of_many(found, item)
            return
        for place, item in enumerate(base.__iter__(value)):
            self.look(f"{found.path}[{place}]", item, False, found.depth)

    def _one_of_many(self, found: _FoundValue, item: Any) -> None:
        """Visit an item of a large collection: with its flags if it makes samples, otherwise only its code."""
        if not is_plain(item) and in_words(item) is None:
            makes_samples = not found.is_data and (is_dataset(item) or is_step(item))
            self.look(f"{found.path}[of many]", item, not makes_samples, found.depth)


def _at_most(facts: dict[str, str]) -> dict[str, str]:
    """Return the facts, sorted; if there are very many, the rest as one digest."""
    spelled = ((printable(path), printable(fact)) for path, fact in facts.items())
    ordered = sorted(spelled, key=lambda item: (len(item[0]), item[0]))
    first, rest = ordered[:_MOST_FACTS], ordered[_MOST_FACTS:]
    if rest:
        first.append(("what else there is", text_digest(repr(rest))))
    return dict(first)
