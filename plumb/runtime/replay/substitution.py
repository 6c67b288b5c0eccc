"""Replacement of calls in a dataset's own code by answers from elsewhere.

The calls are named by their ways (call paths), as a trace found them. On these, the user's functions are rewritten as
for a trace, but only the calls that lead to an answered one are routed; everything else runs unchanged.
"""

from __future__ import annotations

import functools
import operator
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from plumb.core.config import CallPath
from plumb.instrument.ast_sites import AstSite
from plumb.instrument.callee import SPECIAL_METHODS, is_step, resolve
from plumb.instrument.function_rewriter import Rewriter, RewrittenFunction
from plumb.instrument.recorder import SAMPLE, Frame, Node, Recorder, Selection
from plumb.runtime.replay.skipped_value import SkippedValue

MOST_KNOWN = 256

Answer = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]


class SubstitutingRecorder(Recorder):
    """Recorder that answers the calls of some nodes and runs all others; each thread needs its own.

    A call is resolved once for each callee on each path through the present objects, and then remembered. That keeps no
    value alive.
    """

    def __init__(self, tree: Tree, answers: Mapping[Node, Answer]) -> None:
        super().__init__(tree.root, tree.rewriter, tree.selection)
        self._answers = answers
        self._entry = _RememberingFrame(self, tree.root, None, None, None, (), {})

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        """Return the node's answer to the callee and its arguments if it has one, else call the callee."""
        answer = self._answers.get(node)
        return function(*arguments, **keywords) if answer is None else answer(function, arguments, keywords)

    def call(
        self, frame: Frame, site: AstSite, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> Any:
        if function is next and arguments and not keywords:
            return self._next(frame, site, *arguments)
        if type(function) is SkippedValue:
            return self._of_skipped(frame, site)(function, arguments, keywords)
        assert isinstance(frame, _RememberingFrame)
        subject, method = _subject(function, arguments)
        alike = site.index, method, type(subject), *map(type, arguments[:1])
        known = frame.known.get(alike) or frame.known.get((alike, id(subject)))
        if known is None or not known.is_of(subject):
            visible = tuple([None if type(value) is SkippedValue else value for value in arguments])
            known = self._look_up(frame, site, function, visible, keywords)
            handed = visible[_is_special(function, subject) :]
            _remember(frame, known, alike, subject, handed)
        if known.rewritten is None:
            if known.answer is None:
                return function(*arguments, **keywords)
            return known.answer(function, arguments, keywords)
        inner = _RememberingFrame(
            self, known.node, frame, known.function, known.receiver, known.rewritten.sites, known.inner
        )
        return known.rewritten.bind(known.function, inner)(*known.first, *arguments, **{**known.keywords, **keywords})

    def _look_up(
        self, frame: Frame, site: AstSite, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> _ResolvedCall:
        callee = resolve(function, arguments, keywords)
        node = self._node(frame, site, callee)
        rewritten = self._expansion(node, callee, frame)
        if rewritten is None:
            return _ResolvedCall(node, self._answers.get(node))
        return _ResolvedCall(
            node,
            None,
            rewritten,
            callee.function,
            callee.receiver,
            callee.arguments[: len(callee.arguments) - len(arguments)],
            function.keywords if isinstance(function, functools.partial) else {},
        )

    def _of_skipped(self, frame: Frame, site: AstSite) -> Answer:
        """Return the answer to a call of a skipped value's method; without one, the call raises."""
        here = [
            self._answers[child]
            for child in frame.node.children.values()
            if child.site.id == site.id and child in self._answers
        ]
        return here[0] if len(here) == 1 else lambda function, arguments, keywords: function(*arguments, **keywords)


class _RememberingFrame(Frame):
    """Frame that remembers the earlier calls in it, on the same path through the same objects."""

    __slots__ = ("known",)

    def __init__(
        self,
        recorder: Recorder,
        node: Node,
        caller: Frame | None,
        function: FunctionType | None,
        receiver: object,
        sites: tuple[AstSite, ...],
        known: dict[Any, _ResolvedCall],
    ) -> None:
        super().__init__(recorder, node, caller, function, receiver, sites)
        self.known = known


@dataclass
class _ResolvedCall:
    """A resolved call: its node's answer, or the rewritten function with its arguments besides the call's own.

    If `subject` is given, the entry is valid for that very object; `inner` has the resolved calls inside.
    """

    node: Node
    answer: Answer | None
    rewritten: RewrittenFunction | None = None
    function: Any = None  # a FunctionType, which type checkers would bind as a method
    receiver: object = None
    first: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    inner: dict[Any, _ResolvedCall] = field(default_factory=dict)
    subject: Callable[[], Any] | None = None

    def is_of(self, subject: Any) -> bool:
        return self.subject is None or self.subject() is subject


def _subject(function: Any, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return the object that distinguishes a call from others at its site, and an id of the called method.

    A method is a new object each time, so it is identified by its receiver.
    """
    kind = type(function)
    if kind is MethodType:
        return function.__self__, id(function.__func__)
    if kind is BuiltinFunctionType:
        if function is operator.getitem or function is iter:
            method = getattr(type(arguments[0]), SPECIAL_METHODS[function], None)
            return (arguments[0], id(method)) if isinstance(method, FunctionType) else (function, None)
        receiver = function.__self__
        if receiver is not None and not isinstance(receiver, ModuleType):
            return receiver, function.__name__
    return function, None


def _is_special(function: Any, subject: Any) -> bool:
    """Return whether a builtin runs a method of its first argument, which is the subject."""
    return (function is operator.getitem or function is iter) and subject is not function


def _remember(
    place: _RememberingFrame, known: _ResolvedCall, alike: Any, subject: Any, arguments: tuple[Any, ...]
) -> None:
    """Store a resolved call for the next one of its kind, or of its subject if that outlives the sample."""
    if _is_decided_by(arguments):
        return
    is_method = alike[1] is not None
    if known.rewritten is None and is_method and not is_step(subject):
        place.known[alike] = known
        return
    if known.rewritten is not None and not _lives_on(place, known, subject, is_method):
        return
    try:
        known.subject = weakref.ref(subject)
    except TypeError:
        if is_method:
            return
        # A function that can't be referred to weakly, such as numpy's, belongs to a module, which outlives samples.
        known.subject = lambda: subject
    if len(place.known) >= MOST_KNOWN:
        place.known.clear()
    place.known[alike, id(subject)] = known


def _lives_on(place: _RememberingFrame, known: _ResolvedCall, subject: Any, is_method: bool) -> bool:
    """Return whether a callee on a path belongs to the dataset, and is not made for a sample."""
    if is_method:
        return place.caller is None or subject is place.receiver or is_step(subject)
    return bool(known.node.position) or not getattr(subject, "__closure__", None)


def _is_decided_by(arguments: tuple[Any, ...]) -> bool:
    """Return whether a call may depend on a step (transform) among its arguments, so that it can't be remembered."""
    return any(isinstance(first, (FunctionType, functools.partial)) or is_step(first) for first in arguments[:1])


class Tree:
    """Tree of the calls at some ways, with the selection of what must be recorded to observe just these."""

    def __init__(self, ways: Iterable[CallPath]) -> None:
        self.root = Node(None, SAMPLE, "sample", "")
        self.rewriter = Rewriter()
        self.nodes = {way: self._node(way) for way in ways}
        expanded = {ancestor for node in self.nodes.values() for ancestor in node.ancestors()}
        sites: dict[str, set[int]] = defaultdict(set)
        for node in self.nodes.values():
            for step in [node, *node.ancestors()][:-1]:
                sites[step.site.function].add(step.site.index)
        kept = {name: frozenset(indices) for name, indices in sites.items()}
        self.selection = Selection(frozenset(expanded), kept, loops=False, joins_parts=True)

    def _node(self, way: CallPath) -> Node:
        node = self.root
        for step in way:
            function, _, index = step.site.rpartition("#")
            node = node.child(AstSite(function, int(index), "call", "", 0, ""), step.name, step.position)
        return node
