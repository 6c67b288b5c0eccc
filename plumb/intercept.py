"""The one place that touches torch's `DataLoader`: its construction, and the hand-over at `iter()`.

The base class is patched in place, so subclasses, aliases and names imported earlier are all seen. Nothing is patched
before torch itself is imported by the script: environment variables that the script sets first keep their effect.
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

from plumb.nesting import is_inside_dataset
from plumb.site import Site, find_site, loops_plainly
from plumb.torch_loader import HOME, own_class

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

_PLUMBS_LOADER = "plumb.dataloader"
_installed: list[Handler] = []
# In the order of torch's signature, for constructors that were wrapped so that their own says nothing.
_POSITIONAL = (
    "dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "num_workers", "collate_fn", "pin_memory",
    "drop_last", "timeout", "worker_init_fn", "multiprocessing_context", "generator",
)  # fmt: skip


# What a loader has that can be read in another configuration.
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
    """Who wants to hear of loaders."""

    def constructing(self, site: Site, arguments: dict[str, Any]) -> dict[str, Any]:
        """Called before torch's constructor, with its arguments by name; returns those to use."""

    def constructed(self, loader: DataLoader[Any], site: Site) -> None:
        """Called when torch's constructor is done."""

    def iterating(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], plain_loop: bool) -> Iterator[Any]:
        """Called in place of torch's `__iter__`, which `start` is.

        `plain_loop` says that the user's own code iterates the loader until it ends; a framework, an `__iter__` of a
        subclass, or a call of `iter` by hand may count batches by itself.
        """

    def read_by_dataset(self, loader: DataLoader[Any]) -> None:
        """Called when a dataset's own code reads a loader, which then runs as the script has it."""


def install(handler: Handler) -> None:
    """From now on `handler` hears of every DataLoader of this process, and of none in processes it starts."""
    _installed.append(handler)
    if HOME in sys.modules:
        _patch(own_class(), handler)
    else:
        after_import(HOME, lambda _: _patch(own_class(), handler))


def install_once(make_handler: Callable[[], Handler]) -> None:
    """The same with a new handler, if none is installed yet in this process."""
    if not _installed:
        install(make_handler())


def once_imported(name: str, then: Callable[[], None]) -> None:
    """Call `then` when the module `name` has been imported: now, or as soon as the script does so."""
    if name in sys.modules:
        then()
    else:
        after_import(name, lambda _: then())


def after_import(name: str, then: Callable[[ModuleType], None]) -> None:
    """Calls `then` with the module `name` as soon as it has been imported."""
    sys.meta_path.insert(0, _AfterImport(name, then))


class _AfterImport(importlib.abc.MetaPathFinder):
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
    """Return the signature of a loader's constructor; torch's, where a library has wrapped it behind `*args`."""
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
    """Passes on to a handler what happens to the loaders of this process, but for plumb's own."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._owner = os.getpid()
        # By identity: a subclass of the user's may be equal to others, or have no hash.
        self._known: weakref.WeakValueDictionary[int, DataLoader[Any]] = weakref.WeakValueDictionary()
        self._given_up: weakref.WeakValueDictionary[int, DataLoader[Any]] = weakref.WeakValueDictionary()

    def leaves_alone(self, loader: DataLoader[Any]) -> bool:
        """Return whether a loader is plumb's own, or one of a process that this one has started."""
        return os.getpid() != self._owner or getattr(type(loader), "made_by_plumb", False)

    def is_known(self, loader: DataLoader[Any]) -> bool:
        """Return whether the handler has been told of a loader."""
        return self._known.get(id(loader)) is loader

    def constructing(self, site: Site, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments that the handler has for a loader."""
        try:
            return self._handler.constructing(site, arguments)
        except Exception as error:
            self._failed(error)
            return arguments

    def constructed(self, loader: DataLoader[Any], site: Site) -> None:
        """Tell the handler of a loader."""
        self._known[id(loader)] = loader
        try:
            self._handler.constructed(loader, site)
        except Exception as error:
            self._give_up(loader)
            self._failed(error)

    def iterated(self, loader: DataLoader[Any], iterate: Any, patched: Any, caller: FrameType) -> Any:
        """Return the iterator that the handler has for a loader, in the place of the one that `iterate` makes."""
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
        # Where the script's own way fails as well, the error is the script's.
        self._give_up(loader)
        batches = start()
        self._failed(failure)
        return batches

    def _give_up(self, loader: DataLoader[Any]) -> None:
        """Leave a loader alone for good, with what the script gave it."""
        self._given_up[id(loader)] = loader
        with contextlib.suppress(Exception):
            self._handler.read_by_dataset(loader)

    def _failed(self, error: Exception) -> None:
        fail = getattr(self._handler, "fail", None)
        if fail is not None:
            # A tuning that has lost sight of a loader would wait for it in vain.
            fail(error)
        from plumb import failures

        failures.say(error, "the script's loaders run as it has them", getattr(self._handler, "_plan", None))


def _patch_lineage(cls: type[DataLoader[Any]], listener: _Listener) -> None:
    """Listen to a subclass that does all by itself: one whose constructor and iterator never call those of torch.

    torchdata's `StatefulDataLoader` is one. Its arguments are left as they are at its construction. A class that has
    nothing of torch's loader but its name is no loader to plumb.
    """
    construct, iterate = vars(cls).get("__init__"), vars(cls).get("__iter__")
    if construct is None or iterate is None or _calls_its_base(construct) or _calls_its_base(iterate):
        return

    @functools.wraps(construct)
    def patched_init(self: DataLoader[Any], *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        # A constructor may reach torch's in a way that its code doesn't show.
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
    """Return whether a method's code may call the same method of a base class; so it may where there is no code."""
    code = getattr(inspect.unwrap(method), "__code__", None)
    if code is None:
        return True
    return "__class__" in code.co_freevars or not {"super", "__init__", "__iter__", "iter"}.isdisjoint(code.co_names)


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)
