"""Patches of torch's `DataLoader`: its construction, and its `__iter__`.

The base class is patched in place, which covers subclasses, aliases and names imported earlier. Nothing is patched
before the script itself imports torch, so environment variables that the script sets first keep their effect.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from plumb.instrument.call_site import Site, find_site, loops_plainly
from plumb.instrument.torch_loader import HOME, own_class
from plumb.script.nested_loaders import is_inside_dataset

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

_PLUMBS_LOADER = "plumb.api.dataloader"
_installed: list[Handler] = []
# In the order of torch's signature, for constructors that a library wrapped in `*args`.
_POSITIONAL = (
    "dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "num_workers", "collate_fn", "pin_memory",
    "drop_last", "timeout", "worker_init_fn", "multiprocessing_context", "generator",
)  # fmt: skip


# Attributes of a loader that can be read in another configuration.
_PARTS = {
    "dataset",
    "batch_size",
    "sampler",
    "batch_sampler",
    "collate_fn",
    "num_workers",
    "worker_init_fn",
    "generator",
}


class Handler(Protocol):
    """Receiver of the events of a script's loaders."""

    def constructing(self, site: Site, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments to use in place of these, by name, before torch's constructor runs."""

    def constructed(self, loader: DataLoader[Any], site: Site) -> None:
        """Handle the end of torch's constructor."""

    def iterating(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], plain_loop: bool) -> Iterator[Any]:
        """Return an iterator in place of torch's `__iter__`, which is `start`.

        `plain_loop` says that the user's own code iterates the loader until it ends; a framework, an `__iter__` of a
        subclass, or an explicit call of `iter` may count batches by itself.
        """

    def read_by_dataset(self, loader: DataLoader[Any]) -> None:
        """Handle a loader that a dataset's own code reads, and that therefore runs as the script has it."""


def install(handler: Handler) -> None:
    """Report every DataLoader of this process to `handler` from now on, but none in processes that it starts."""
    _installed.append(handler)
    if HOME in sys.modules:
        _patch(own_class(), handler)
    else:
        after_import(HOME, lambda _: _patch(own_class(), handler))


def install_once(make_handler: Callable[[], Handler]) -> None:
    """Install a new handler if none is installed yet in this process."""
    if not _installed:
        install(make_handler())


def once_imported(name: str, then: Callable[[], None]) -> None:
    """Call `then` when the module `name` has been imported: now, or as soon as the script imports it."""
    if name in sys.modules:
        then()
    else:
        after_import(name, lambda _: then())


def after_import(name: str, then: Callable[[ModuleType], None]) -> None:
    """Call `then` with the module `name` as soon as it has been imported."""
    sys.meta_path.insert(0, _LoaderImportHook(name, then))


class _LoaderImportHook(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_then_patch(module: ModuleType) -> None:
                execute(module)
                self._then(module)

            spec.loader.exec_module = execute_then_patch  # type: ignore[method-assign]
        return spec


def _signature_of(construct: Callable[..., None]) -> inspect.Signature:
    """Return the signature of a loader's constructor; torch's if a library wrapped the constructor in `*args`."""
    signature = inspect.signature(construct)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return signature
    known = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *_POSITIONAL)]
    optional = [parameter.replace(default=None) for parameter in known[2:]]
    others = inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD)
    return inspect.Signature([*known[:2], *optional, others])


def _patch(base: type[DataLoader[Any]], handler: Handler) -> None:
    construct, iterate = base.__init__, base.__iter__
    signature = _signature_of(construct)
    listener = _Listener(handler)

    @functools.wraps(construct)
    def patched_init(self: DataLoader[Any], *args: Any, **kwargs: Any) -> None:
        if listener.leaves_alone(self):
            return construct(self, *args, **kwargs)
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return construct(self, *args, **kwargs)
        given = {**bound.arguments, **bound.arguments.get("others", {})}
        if is_inside_dataset(sys._getframe(1)):
            return construct(self, *args, **kwargs)
        site = find_site(sys._getframe(1))
        arguments = {name: value for name, value in given.items() if name not in ("self", "others")}
        construct(self, **listener.constructing(site, arguments))
        listener.constructed(self, site)
        return None

    @functools.wraps(iterate)
    def patched_iter(self: DataLoader[Any]) -> Any:
        return listener.iterated(self, iterate, patched_iter, sys._getframe(1))

    def patched_subclass(cls: Any, /, **keywords: Any) -> None:
        super(base, cls).__init_subclass__(**keywords)
        _patch_lineage(cls, listener)

    base.__init__ = patched_init  # type: ignore[method-assign]
    base.__iter__ = patched_iter  # type: ignore[method-assign]
    base.__init_subclass__ = classmethod(patched_subclass)  # type: ignore[assignment]
    for cls in _subclasses(base):
        _patch_lineage(cls, listener)


class _Listener:
    """Forwarder of the events of this process's loaders to a handler, except those of plumb's own loaders."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._owner = os.getpid()
        # Keyed by identity, because a user's subclass may define equality or have no hash.
        self._known: weakref.WeakValueDictionary[int, DataLoader[Any]] = weakref.WeakValueDictionary()
        self._given_up: weakref.WeakValueDictionary[int, DataLoader[Any]] = weakref.WeakValueDictionary()

    def leaves_alone(self, loader: DataLoader[Any]) -> bool:
        """Return whether a loader is plumb's own, or belongs to a process that this one has started."""
        return os.getpid() != self._owner or getattr(type(loader), "made_by_plumb", False)

    def is_known(self, loader: DataLoader[Any]) -> bool:
        """Return whether the handler knows the loader."""
        return self._known.get(id(loader)) is loader

    def constructing(self, site: Site, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the handler's arguments for a loader."""
        try:
            return self._handler.constructing(site, arguments)
        except Exception as error:
            self._failed(error)
            return arguments

    def constructed(self, loader: DataLoader[Any], site: Site) -> None:
        """Report a new loader to the handler."""
        self._known[id(loader)] = loader
        try:
            self._handler.constructed(loader, site)
        except Exception as error:
            self._give_up(loader)
            self._failed(error)

    def iterated(self, loader: DataLoader[Any], iterate: Any, patched: Any, caller: FrameType) -> Any:
        """Return the handler's iterator for a loader, in place of that of `iterate`."""
        if self.leaves_alone(loader):
            return iterate(loader)
        start = functools.partial(iterate, loader)
        if self._given_up.get(id(loader)) is loader:
            return start()
        try:
            if is_inside_dataset(caller):
                self._handler.read_by_dataset(loader)
                return start()
            theirs = type(loader).__iter__
            hands_on = theirs is patched or getattr(theirs, "__module__", None) == _PLUMBS_LOADER
            plain_loop = hands_on and loops_plainly(caller)
            return self._handler.iterating(loader, start, plain_loop)
        except Exception as error:
            failure = error
        # If the script's own loader fails as well, the error is the script's.
        self._give_up(loader)
        batches = start()
        self._failed(failure)
        return batches

    def _give_up(self, loader: DataLoader[Any]) -> None:
        """Leave a loader alone from now on, with what the script gave it."""
        self._given_up[id(loader)] = loader
        with contextlib.suppress(Exception):
            self._handler.read_by_dataset(loader)

    def _failed(self, error: Exception) -> None:
        fail = getattr(self._handler, "fail", None)
        if fail is not None:
            # A tuning would wait in vain for a loader that is not reported any more.
            fail(error)
        from plumb.instrument import failure_report

        failure_report.say(error, "the script's loaders run as it has them", getattr(self._handler, "_plan", None))


def _patch_lineage(cls: type[DataLoader[Any]], listener: _Listener) -> None:
    """Patch a subclass whose constructor and iterator never call torch's, such as torchdata's `StatefulDataLoader`.

    Its constructor's arguments are left as they are. A class that shares nothing with torch's loader except its base is
    not treated as a loader.
    """
    construct, iterate = vars(cls).get("__init__"), vars(cls).get("__iter__")
    if construct is None or iterate is None or _calls_its_base(construct) or _calls_its_base(iterate):
        return

    @functools.wraps(construct)
    def patched_init(self: DataLoader[Any], *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        # A constructor may call torch's in a way that its code doesn't show.
        told = listener.leaves_alone(self) or listener.is_known(self) or is_inside_dataset(sys._getframe(1))
        if not told and vars(self).keys() >= _PARTS:
            listener.constructed(self, find_site(sys._getframe(1)))

    @functools.wraps(iterate)
    def patched_iter(self: DataLoader[Any]) -> Any:
        if not listener.is_known(self):
            return iterate(self)
        return listener.iterated(self, iterate, patched_iter, sys._getframe(1))

    cls.__init__ = patched_init  # type: ignore[method-assign]
    cls.__iter__ = patched_iter  # type: ignore[method-assign]


def _calls_its_base(method: Any) -> bool:
    """Return whether a method's code may call the same method of a base class; True if there is no code to inspect."""
    code = getattr(inspect.unwrap(method), "__code__", None)
    if code is None:
        return True
    return "__class__" in code.co_freevars or not {"super", "__init__", "__iter__", "iter"}.isdisjoint(code.co_names)


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)
