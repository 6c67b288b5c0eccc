"""Decision which callees are expanded (rewritten and descended into) and which are operators (taken whole).

Libraries are recognised by the shape of their objects, never by importing them. An object *leads on* if it holds user
code or a chain of further steps: a dataset, a `Compose`, or a formatter that holds a transform.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from plumb.instrument.hints import hint_of

PLUMB_FOLDER = __file__.rpartition("instrument")[0]
STANDARD_FOLDERS = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
LIBRARY_FOLDERS = (*STANDARD_FOLDERS, PLUMB_FOLDER)
DATASET_CLASSES = {"Dataset", "IterableDataset", "MapDataPipe", "IterDataPipe"}
DATASET_PACKAGES = {"torch", "torchdata", "datasets"}
UNNAMED_METHODS = {"__call__", "__getitem__", "__getitems__", "__iter__", "__next__", "forward"}
MODULE_HOOKS = ("_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks")
TORCH_COLLATE = "torch.utils.data._utils"
SCANNED_ITEMS = 64
SPECIAL_METHODS = {operator.getitem: "__getitem__", iter: "__iter__", next: "__next__"}


@dataclass(frozen=True)
class Callee:
    """Target of a call.

    `function` is the Python function behind the call, or None if there is none; `arguments` and `keywords` are those
    that this function gets, including its receiver. `instance` is the called object if that is neither a function nor a
    class.
    """

    name: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    function: Any = None  # a FunctionType, which type checkers would bind as a method
    receiver: object = None
    instance: object = None


def resolve(function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Callee:
    """Return what calling `function` with these arguments runs, as far as Python shows it."""
    kind = type(function)
    if isinstance(function, FunctionType):
        return Callee(_function_name(function), arguments, keywords, function)
    if kind is MethodType:
        return _resolve_method(function, arguments, keywords)
    if kind is functools.partial and not _has_placeholders(function):
        merged = {**function.keywords, **keywords}
        inner = resolve(function.func, (*function.args, *arguments), merged)
        return dataclasses.replace(inner, instance=function)
    if kind is BuiltinFunctionType and function in SPECIAL_METHODS and arguments:
        method = getattr(type(arguments[0]), SPECIAL_METHODS[function], None)
        if isinstance(method, FunctionType):
            return _resolve_method(MethodType(method, arguments[0]), arguments[1:], keywords)
    if isinstance(function, (BuiltinFunctionType, type)):
        return Callee(function.__name__, arguments, keywords)
    return _resolve_instance(function, arguments, keywords)


def _resolve_method(method: MethodType, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Callee:
    function, receiver = method.__func__, method.__self__
    name = getattr(function, "__name__", type(function).__name__)
    if name in UNNAMED_METHODS:
        name = type(receiver).__name__
    if isinstance(function, FunctionType):
        return Callee(name, (receiver, *arguments), keywords, function, receiver)
    return Callee(name, arguments, keywords, receiver=receiver)


def _resolve_instance(instance: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Callee:
    kind = type(instance)
    call = _call_method(kind)
    if getattr(call, "__module__", None) == "torch.nn.modules.module":
        forward = getattr(instance, "forward", None) if _has_no_hooks(instance) else None
        call = getattr(forward, "__func__", None)
    if isinstance(call, FunctionType):
        return Callee(kind.__name__, (instance, *arguments), keywords, call, instance, instance)
    name = None if hasattr(kind, "__getattr__") else getattr(instance, "__name__", None)
    return Callee(name if isinstance(name, str) else kind.__name__, arguments, keywords, instance=instance)


def _call_method(kind: type) -> Any:
    """Return the method that calling an instance of a class runs; None if instances can't be called."""
    return getattr(kind, "__call__", None)  # noqa: B004  # the method itself is wanted


def _has_placeholders(function: functools.partial[Any]) -> bool:
    placeholder = getattr(functools, "Placeholder", None)  # from Python 3.14 on
    return placeholder is not None and any(argument is placeholder for argument in function.args)


def _has_no_hooks(module: Any) -> bool:
    """Return whether calling a torch module only calls its `forward`, by the test that torch itself uses."""
    torch_module = sys.modules["torch.nn.modules.module"]
    return not any(
        getattr(module, hooks, None) or getattr(torch_module, f"_global{hooks}", None) for hooks in MODULE_HOOKS
    ) and not getattr(module, "_compiled_call_impl", None)


def _function_name(function: FunctionType) -> str:
    if function.__name__ == "<lambda>":
        return f"lambda:{function.__code__.co_firstlineno}"
    return function.__name__


def expands(callee: Callee, caller: FunctionType | None, holder: object) -> bool:
    """Return whether to descend into a callee.

    User code is expanded unless the user marked it as one operator; library code is expanded at the entry and where it
    leads on.

    Args:
        callee: Target of the call.
        caller: Function that contains the call; None at the entry.
        holder: Receiver of `caller`.

    """
    function = callee.function
    if function is None or (function.__module__ or "").startswith(TORCH_COLLATE):
        return False
    if caller is None:
        return True
    if hint_of(function) is not None:
        return False
    if is_user_code(function) or is_user_code(getattr(function, "__wrapped__", None)):
        return True
    if is_standard(function):
        return False
    if callee.receiver is not None and (callee.receiver is holder or leads_on(callee.receiver)):
        return True
    if callee.receiver is None:
        of_same_module = function.__module__ == caller.__module__ and not is_user_code(caller)
        if of_same_module or (is_dataset(holder) and any(value is function for value in _attributes(holder))):
            return True
    handed = [*callee.arguments[callee.receiver is not None :], *callee.keywords.values()]
    return any(is_step(value) or (leads_on(value) and not is_of_user_class(value)) for value in handed)


def is_standard(function: FunctionType) -> bool:
    """Return whether a function belongs to the standard library."""
    filename = function.__code__.co_filename
    return filename.startswith(STANDARD_FOLDERS) and "-packages" not in filename


@functools.lru_cache(maxsize=4096)
def is_user_file(filename: str) -> bool:
    """Return whether a file belongs neither to the standard library, nor to an installed package, nor to plumb."""
    if filename.startswith("<frozen") or filename.startswith(LIBRARY_FOLDERS):
        return False
    return "site-packages" not in filename and "dist-packages" not in filename


def is_user_code(value: Any) -> bool:
    """Return whether a function was defined outside of the standard library, installed packages and plumb."""
    return isinstance(value, FunctionType) and is_user_file(value.__code__.co_filename)


def is_of_user_class(value: object) -> bool:
    """Return whether a value's class, or a base class of it, was defined in the user's code."""
    return any(is_user_class(kind) for kind in type(value).__mro__)


def is_user_class(kind: type) -> bool:
    """Return whether a class was defined in the user's code."""
    filename = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return kind.__module__ == "__main__" or (isinstance(filename, str) and is_user_file(filename))


def is_dataset(value: object) -> bool:
    """Return whether a value is a dataset or a data pipe, by the names of its classes."""
    return any(
        kind.__name__ in DATASET_CLASSES and kind.__module__.partition(".")[0] in DATASET_PACKAGES
        for kind in type(value).__mro__
    )


def leads_on(value: object) -> bool:
    """Return whether a value holds user code or a chain of steps."""
    if isinstance(value, FunctionType):
        return is_user_code(value)
    if isinstance(value, MethodType):
        return is_user_code(value.__func__)
    if isinstance(value, functools.partial):
        return leads_on(value.func)
    if isinstance(value, (list, tuple)):
        return any(is_step(item) for item in value[:SCANNED_ITEMS])
    if isinstance(value, (type, ModuleType, str, bytes, int, float)) or value is None:
        return False
    if is_dataset(value) or is_of_user_class(value):
        return True
    return any(_hangs_on(attribute) for attribute in _attributes(value))


def _hangs_on(attribute: object) -> bool:
    """Return whether an attribute makes its holder lead on: a user's callable, a dataset, or several steps to run."""
    if isinstance(attribute, (FunctionType, functools.partial)) or is_dataset(attribute):
        return leads_on(attribute)
    if is_step(attribute) and is_of_user_class(attribute):
        return True
    return any(is_step(item) for item in items_of(attribute))


def is_step(value: object) -> bool:
    """Return whether a value can be one step of a chain: a callable object, a dataset, or a user's function."""
    if isinstance(value, (FunctionType, functools.partial)):
        return leads_on(value)
    if isinstance(value, (type, MethodType, BuiltinFunctionType, ModuleType)):
        return False
    return isinstance(_call_method(type(value)), FunctionType) or is_dataset(value)


def _attributes(value: object) -> Iterable[Any]:
    attributes = getattr(value, "__dict__", None)
    return list(attributes.values()) if type(attributes) is dict else ()


def items_of(attribute: object) -> Iterable[Any]:
    """Return the first items of a list-like or dictionary-like attribute; nothing for other values."""
    if isinstance(attribute, (list, tuple)):
        return attribute[:SCANNED_ITEMS]
    modules = attribute if isinstance(attribute, dict) else getattr(attribute, "_modules", None)
    return itertools.islice(modules.values(), SCANNED_ITEMS) if isinstance(modules, dict) else ()


def _all_parts(attribute: object) -> Iterable[Any]:
    """Return all items of a list of datasets, which may have hundreds of parts; of other attributes the first items."""
    held = items_of(attribute)
    return attribute if isinstance(attribute, (list, tuple)) and any(map(is_dataset, held)) else held


def position_in(holder: object, instance: object) -> str:
    """Return where an object keeps another, e.g. `transforms[2]`; empty if it doesn't.

    The position tells apart the equally named steps of a chain, and is the same in every pass and process.
    """
    attributes = getattr(holder, "__dict__", None)
    if type(attributes) is not dict:
        return ""
    is_part = is_dataset(instance)
    for name, attribute in attributes.items():
        if attribute is instance:
            return str(name)
        for index, item in enumerate(_all_parts(attribute) if is_part else items_of(attribute)):
            if item is instance:
                return f"{name}[{index}]"
    return ""
