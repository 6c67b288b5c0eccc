"""Recorder that rewritten code calls: one frame for each call of a rewritten function, one recorder for each pass.

A frame forwards each site to its recorder, which decides whether the callee is expanded or is an operator, finds the
callee's node in the tree of calls, and lets a subclass *run* it: to time it, to follow values, or to replay it. The
recorder ignores other threads and all calls after its end; the user's code then runs unrecorded.
"""

from __future__ import annotations

import operator
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, GeneratorType, MethodType, ModuleType, TracebackType
from typing import Any

from plumb.core.config import CallPath, CallStep
from plumb.instrument.ast_sites import AstSite, function_id
from plumb.instrument.callee import Callee, expands, is_dataset, is_step, is_user_file, position_in, resolve
from plumb.instrument.function_rewriter import Rewriter, RewrittenFunction
from plumb.instrument.hints import Hint, hint_of
from plumb.instrument.values import attribute

PLAIN_TYPES = {int, float, complex, bool, str, bytes, type(None)}
PLAIN_CONTAINERS = {
    list, tuple, dict, set, frozenset, str, bytes, range, deque, type({}.keys()), type({}.values()), type({}.items())
}  # fmt: skip
FORWARDING_ITERATORS = {enumerate, zip, map, filter}
"""Iterators made by rewritten code, which already records what they iterate and call."""
INHERITED_HOLDERS = 6
MOST_PARTS_APART = 2


class Node:
    """One place in the tree of calls: a callee at a site, below the expanded call that contains the site.

    A node is the same for all samples. It has `children` if its callee was expanded; then `function` is the function's
    id and `definition` the place where it is defined. `is_qualified`: the source names the callee by its module or
    class. `is_step`: the call runs a step of a `Compose` or a similar chain. `is_part`: the call reads one of several
    datasets that a wrapper keeps in a list. `hint` is the user's mark on the callee.
    """

    def __init__(self, parent: Node | None, site: AstSite, name: str, position: str) -> None:
        self.parent = parent
        self.site = site
        self.name = name
        self.position = position
        self.children: dict[tuple[str, str, str], Node] = {}
        self.function: str | None = None
        self.definition: str | None = None
        self.is_qualified = False
        self.is_step = False
        self.is_part = False
        self.generator_name: str | None = None
        self.hint: Hint | None = None

    def child(self, site: AstSite, name: str, position: str) -> Node:
        key = site.id, name, position
        found = self.children.get(key)
        if found is None:
            found = self.children[key] = Node(self, site, name, position)
        return found

    @property
    def is_generator(self) -> bool:
        """True if the callee makes a generator, whose steps then count here."""
        return self.generator_name is not None

    @property
    def is_users(self) -> bool:
        """True if the callee was expanded and is user code."""
        return self.definition is not None and is_user_file(self.definition)

    @property
    def is_collating(self) -> bool:
        """True for the collate function and all calls inside it."""
        return self.site is COLLATE or (self.parent is not None and self.parent.is_collating)

    @property
    def way(self) -> CallPath:
        """Call path to this node, including its own call. All datasets in one list of a wrapper share one place."""
        steps = [node._step for node in (self, *self.ancestors()) if node.parent is not None]
        return tuple(reversed(steps))

    @property
    def _step(self) -> CallStep:
        return CallStep(self.site.id, self.name, _list_of(self.position) if self.is_part else self.position)

    def ancestors(self) -> Iterator[Node]:
        """Yield the expanded calls around this node, innermost first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def walk(self) -> Iterator[Node]:
        """Yield this node and all nodes below it, parents first, in the order of their first call."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def __repr__(self) -> str:
        return f"<Node {self.name} at {self.site.id}>"


@dataclass(frozen=True)
class Selection:
    """Calls that a recorder descends into and records.

    `expanded` holds the nodes to descend into; None decides by the callee. `sites` are the sites to record and
    `skipped` those not to record, by function id. A function in neither is recorded in full if `expanded` is None, else
    not at all. With `loops`, every loop is recorded too. With `joins_parts`, all datasets in one list of a wrapper
    share one node.
    """

    expanded: frozenset[Node] | None = None
    sites: Mapping[str, frozenset[int]] = field(default_factory=dict)
    skipped: Mapping[str, frozenset[int]] = field(default_factory=dict)
    loops: bool = True
    joins_parts: bool = False


EVERYTHING = Selection()

SAMPLE = AstSite("plumb:sample", 0, "call", "", 0, "")
COLLATE = AstSite("plumb:collate", 0, "call", "", 0, "")


class Recorder:
    """Context manager that follows one thread's calls through rewritten code, starting from `enter` or `stream`.

    Subclasses define in `run` what happens at each call. It records only inside its context.
    """

    deadline = float("inf")  # In `time.perf_counter` seconds; from then on the user's code runs as it stands.

    def __init__(self, root: Node, rewriter: Rewriter, selection: Selection = EVERYTHING) -> None:
        self.root = root
        self.rewriter = rewriter
        self.selection = selection
        self._generators: weakref.WeakKeyDictionary[Any, Node] = weakref.WeakKeyDictionary()
        self._entry = Frame(self, root, None, None, None, ())
        self._thread: int | None = None

    def __enter__(self) -> None:
        self._thread = threading.get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread = None

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        """Call `function` for `node`: an operator if `leaf`, else rewritten code, whose own calls come back here."""
        raise NotImplementedError

    def listens(self) -> bool:
        return self._thread == threading.get_ident()

    def enter(self, entry: AstSite, function: Any, *arguments: Any) -> Any:
        """Call `function` from the root of the tree, and record what it does below `entry`: SAMPLE or COLLATE."""
        return self.call(self._entry, entry, function, arguments, {})

    def stream(self, iterable: Any) -> Iterator[Any]:
        """Iterate `iterable` from the root of the tree, and record what its `__iter__` and `__next__` do."""
        return iter(self.iterate(self._entry, SAMPLE, iterable))

    def call(
        self, frame: Frame, site: AstSite, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> Any:
        if time.perf_counter() > self.deadline:
            self._thread = None
            return function(*arguments, **keywords)
        if function is next and arguments and not keywords:
            return self._next(frame, site, *arguments)
        callee = resolve(function, arguments, keywords)
        node = self._node(frame, site, callee)
        node.hint = hint_of(callee.function)
        rewritten = self._expansion(node, callee, frame)
        if rewritten is None:
            result = self.run(node, function, arguments, keywords, leaf=True)
        else:
            assert callee.function is not None
            code = callee.function.__code__
            node.function, node.definition = rewritten.function, f"{code.co_filename}:{code.co_firstlineno}"
            inner = Frame(self, node, frame, callee.function, callee.receiver, rewritten.sites)
            bound = rewritten.bind(callee.function, inner)
            result = self.run(node, bound, callee.arguments, callee.keywords, leaf=False)
        if type(result) is GeneratorType and (rewritten is None or result.gi_code is rewritten.code):
            node.generator_name = result.__name__
            self._generators[result] = node
        return result

    def _node(self, frame: Frame, site: AstSite, callee: Callee) -> Node:
        """Return the node of a call; a call that runs a step kept by a `Compose` has that step's name and position."""
        function = callee.function if callee.receiver is None else None
        first = callee.arguments[callee.function is not None and callee.receiver is not None :][:1]
        for subject in (callee.instance, function, callee.receiver, *first):
            if subject is None or subject is frame.receiver or not is_step(subject):
                continue
            position = frame.position_of(subject)
            if position:
                is_part = position.endswith("]") and is_dataset(subject)
                is_item = position.endswith("]") and not is_part
                if is_part and (self.selection.joins_parts or _holds_many(frame.receiver, position)):
                    position = _list_of(position)
                name = type(subject).__name__ if is_item and not isinstance(subject, FunctionType) else callee.name
                node = frame.node.child(site, name, position)
                node.is_step = is_item
                node.is_part = is_part
                return node
        node = frame.node.child(site, callee.name, "")
        node.is_qualified = frame.qualifies(site)
        return node

    def iterate(self, frame: Frame, site: AstSite, iterable: Any) -> Any:
        """Return what a loop over `iterable` should iterate instead, so that each step of a source is recorded."""
        kind = type(iterable)
        plain = kind in PLAIN_CONTAINERS or kind in FORWARDING_ITERATORS or _is_array(iterable)
        if plain or kind is RecordedIterator:
            return iterable
        if isinstance(getattr(kind, "__iter__", None), FunctionType):
            iterator = self.call(frame, site, MethodType(kind.__iter__, iterable), (), {})
        else:
            iterator = iter(iterable)
        return RecordedIterator(self, frame, site, iterator)

    def advance(self, frame: Frame, site: AstSite, iterator: Any) -> Any:
        """Return the next item of an iterator. A generator's work is recorded at the call that made the generator."""
        node = self._generators.get(iterator) if type(iterator) is GeneratorType else None
        if node is not None:
            return self.run(node, next, (iterator,), {}, leaf=node.function is None)
        if isinstance(getattr(type(iterator), "__next__", None), FunctionType):
            return self.call(frame, site, MethodType(type(iterator).__next__, iterator), (), {})
        name = iterator.__name__ if type(iterator) is GeneratorType else type(iterator).__name__
        return self.run(frame.node.child(site, name, ""), next, (iterator,), {}, leaf=True)

    def _next(self, frame: Frame, site: AstSite, iterator: Any, *default: Any) -> Any:
        if isinstance(iterator, RecordedIterator) or not hasattr(type(iterator), "__next__"):
            return next(iterator, *default)
        try:
            return self.advance(frame, site, iterator)
        except StopIteration:
            if default:
                return default[0]
            raise

    def _expansion(self, node: Node, callee: Callee, frame: Frame) -> RewrittenFunction | None:
        if callee.function is None:
            return None
        name = function_id(callee.function)
        selection = self.selection
        if selection.expanded is not None:
            if node not in selection.expanded:
                return None
            return self.rewriter.rewrite(callee.function, selection.sites.get(name, frozenset()), selection.loops)
        if not expands(callee, frame.function, frame.receiver):
            return None
        if any(ancestor.function == name for ancestor in node.ancestors()) and not _is_wrapped(callee, frame):
            return None  # recursion: once is enough
        full = self.rewriter.rewrite(callee.function)
        if full is None or name not in selection.skipped:
            return full
        return self.rewriter.rewrite(callee.function, frozenset(range(len(full.sites))) - selection.skipped[name])


class Frame:
    """One call of a rewritten function: the object that its sites call."""

    __slots__ = ("caller", "function", "node", "receiver", "recorder", "sites")

    slice = slice

    def __init__(
        self,
        recorder: Recorder,
        node: Node,
        caller: Frame | None,
        function: FunctionType | None,
        receiver: object,
        sites: tuple[AstSite, ...],
    ) -> None:
        self.recorder = recorder
        self.node = node
        self.caller = caller
        self.function = function
        self.receiver = receiver
        self.sites = sites

    def call(self, index: int, function: Any, /, *arguments: Any, **keywords: Any) -> Any:
        if not self.recorder.listens():
            return function(*arguments, **keywords)
        return self.recorder.call(self, self.sites[index], function, arguments, keywords)

    def operate(self, index: int, name: str, /, *operands: Any) -> Any:
        function = getattr(operator, name)
        kind = type(operands[0])
        if kind in PLAIN_TYPES and type(operands[-1]) in PLAIN_TYPES:
            return function(*operands)
        if (name == "getitem" and kind in PLAIN_CONTAINERS) or not self.recorder.listens():
            return function(*operands)
        return self.recorder.call(self, self.sites[index], function, operands, {})

    def store(self, index: int, value: Any, container: Any, key: Any, /) -> None:
        if type(container) in PLAIN_CONTAINERS or not self.recorder.listens():
            container[key] = value
        else:
            self.recorder.call(self, self.sites[index], operator.setitem, (container, key, value), {})

    def update(self, index: int, name: str, container: Any, key: Any, value: Any, /) -> None:
        if type(container) in PLAIN_CONTAINERS or not self.recorder.listens():
            container[key] = getattr(operator, name)(container[key], value)
        else:
            self.recorder.call(self, self.sites[index], _update, (container, key, value, name), {})

    def forward(self, index: int, function: Any, /) -> Any:
        """Return what to pass to `map` or `filter` instead of `function`, so that its calls are recorded."""
        return partial(self.call, index, function) if self.recorder.listens() and callable(function) else function

    def iterate(self, index: int, iterable: Any, /) -> Any:
        return self.recorder.iterate(self, self.sites[index], iterable) if self.recorder.listens() else iterable

    def position_of(self, instance: object) -> str:
        """Return where the nearest calls' receivers keep a called object, e.g. `transforms[2]`; empty if nowhere."""
        frame: Frame | None = self
        for _ in range(INHERITED_HOLDERS):
            if frame is None:
                break
            found = position_in(frame.receiver, instance)
            if found:
                return found
            frame = frame.caller
        return ""

    def qualifies(self, site: AstSite) -> bool:
        """Return whether the site's source names its callee by its module or class, such as `np.random.rand`."""
        first, dot, _ = site.text.partition(".")
        if not dot or self.function is None or not site.text.replace(".", "_").isidentifier():
            return False
        return isinstance(self.function.__globals__.get(first), (ModuleType, type))


def _is_wrapped(callee: Callee, frame: Frame) -> bool:
    """Return whether a callee is a method of a dataset that no outer call reads yet, such as a `Subset` in another."""
    outer: Frame | None = frame
    while outer is not None:
        if outer.receiver is callee.receiver:
            return False
        outer = outer.caller
    return is_dataset(callee.receiver)


def _holds_many(holder: object, position: str) -> bool:
    """Return whether the list of a position is too long for its datasets to be separate nodes of the graph."""
    held = attribute(holder, _list_of(position))
    return isinstance(held, (list, tuple)) and len(held) > MOST_PARTS_APART


def _list_of(position: str) -> str:
    return position.partition("[")[0]


def _is_array(value: object) -> bool:
    """Return whether a value is an array in memory, whose items cost next to nothing to read."""
    kind = type(value)
    in_memory = kind.__module__.partition(".")[0] in ("numpy", "torch") and kind.__name__ != "memmap"
    return in_memory and attribute(value, "dtype") is not None


def _update(container: Any, key: Any, value: Any, name: str) -> None:
    container[key] = getattr(operator, name)(container[key], value)


class RecordedIterator:
    """Iterator whose steps are recorded; `send`, `throw` and `close` go to the iterator behind it."""

    __slots__ = ("_frame", "_iterator", "_recorder", "_site")

    def __init__(self, recorder: Recorder, frame: Frame, site: AstSite, iterator: Any) -> None:
        self._recorder = recorder
        self._frame = frame
        self._site = site
        self._iterator = iterator

    def __iter__(self) -> RecordedIterator:
        return self

    def __next__(self) -> Any:
        if not self._recorder.listens():
            return next(self._iterator)
        return self._recorder.advance(self._frame, self._site, self._iterator)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)
