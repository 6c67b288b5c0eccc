"""A dataset's own code, run with some of its calls answered from elsewhere.

The calls are named by their ways, as a trace found them. On the ways, the user's functions are rewritten as a trace
rewrites them, but only the calls that lead to an answered one are routed; everything else runs as it stands.
"""

from __future__ import annotations

import functools
import operator
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FunctionType, MappingProxyType, MethodType
from typing import Any

from plumb.plan import Cut, Way
from plumb.runtime.skipped import Skipped, SkippedUsed
from plumb.trace.expand import SPECIAL_METHODS, Callee, is_step, resolve
from plumb.trace.recorder import SAMPLE, Frame, Node, Recorder, Selection
from plumb.trace.rewrite import Rewriter, Rewritten
from plumb.trace.sites import Site
from plumb.trace.values import parts

MOST_KNOWN = 256

Answer = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]

NO_ANSWERS: Mapping[Way, Answer] = MappingProxyType({})


class ReplayError(Exception):
    """A sample that can't be read with a cut: the cut was not reached once, or a skipped value was used.

    The sample as it stands is not affected: read it plainly.
    """


class Replay:
    """Reads a dataset's samples with a cut in them, and with further calls answered wherever they are reached.

    Any number of threads may read at once. Pickles as what it was made from; what is made of the user's functions
    is made again in each process. All methods raise `ReplayError` where the cut is not reached exactly once or a
    skipped value is used, and whatever the user's code raises.
    """

    def __init__(self, dataset: Any, cut: Cut | None, answers: Mapping[Way, Answer] = NO_ANSWERS) -> None:
        self.dataset = dataset
        self.cut = cut
        self._answers = dict(answers)
        self._threads = _Threads()
        self._tree: Tree | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Replay, (self.dataset, self.cut, self._answers)

    def sample(self, index: Any) -> Any:
        """The sample, with the further calls answered and the cut's call run as it stands."""
        return self._run(index, None)

    def sample_keeping(self, index: Any, keep: Callable[[Any], None]) -> Any:
        """The sample; `keep` is given the cut's value at the moment it is there, before other code can change it."""

        def run_and_keep(function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
            value = function(*arguments, **keywords)
            keep(value)
            return value

        if self._is_whole:
            sample = self._run(index, None)
            keep(sample)
            return sample
        return self._run(index, run_and_keep)

    def prefix(self, index: Any) -> Any:
        """The cut's value. The rest of the sample is not run, but for the user's `finally` and `with`."""
        made: list[Any] = []

        def run_and_leave(function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
            made.append(function(*arguments, **keywords))
            raise _Left

        if self._is_whole:
            return self._run(index, None)
        try:
            self._run(index, run_and_leave)
        except _Left:
            return made[0]
        raise ReplayError(f"the dataset's code catches what plumb leaves it by, after {self._after}")

    def sample_from(self, index: Any, value: Any) -> Any:
        """The sample, where `value` is the cut's value: neither its call nor those that only feed it are run."""
        return value if self._is_whole else self._run(index, lambda *_: value, skips=True)

    @property
    def _is_whole(self) -> bool:
        return self.cut is not None and self.cut.way == ()

    @property
    def _after(self) -> str:
        return "the sample" if self.cut is None else self.cut.after

    def _run(self, index: Any, at_cut: Answer | None, skips: bool = False) -> Any:
        if at_cut is None and not self._answers:
            return self.dataset[index]
        reading = getattr(self._threads, "reading", None)
        if reading is None:
            reading = self._threads.reading = self._reading()
        reading.begin(at_cut, skips)
        try:
            with reading.recorder:
                sample = reading.recorder.enter(SAMPLE, operator.getitem, self.dataset, index)
        except SkippedUsed:
            reading.used = True
            sample = None
        except Exception:
            if not reading.used:
                raise
            sample = None
        finally:
            reading.at_cut = None  # holds the value
        if reading.used or (reading.skipped and any(type(part) is Skipped for part in parts(sample))):
            raise ReplayError(f"what is made before {self._after} is needed behind it, too")
        if at_cut is not None and reading.reached != 1:
            raise ReplayError(f"{self._after} was reached {reading.reached} times in a sample, not once")
        return sample

    def _reading(self) -> _Reading:
        """The calling thread's own reading of the tree that all threads share."""
        ways = [] if self.cut is None or self._is_whole else [self.cut.way, *self.cut.feeds]
        with self._lock:
            tree = self._tree
            if tree is None:
                tree = self._tree = Tree([*self._answers, *ways])
        return _Reading(tree, self._answers, ways)


class _Left(BaseException):
    """Leaves the user's code behind the cut. No `Exception`, so that the user's own handlers let it pass."""


class _Threads(threading.local):
    reading: _Reading


class _Reading:
    """One thread's way through a dataset's code: what happens at the cut and its feeds is set for each sample."""

    def __init__(self, tree: Tree, answers: Mapping[Way, Answer], ways: list[Way]) -> None:
        self.mark: Any = Skipped({way[-1].name for way in ways}, self._note_use)
        self.begin(None, skips=False)
        table = {tree.nodes[way]: answer for way, answer in answers.items()}
        table.update({tree.nodes[way]: self._at_cut for way in ways[:1]})
        table.update({tree.nodes[way]: self._at_feed for way in ways[1:]})
        self.recorder = Answered(tree, table)

    def begin(self, at_cut: Answer | None, skips: bool) -> None:
        """Starts a sample. `reached` counts its cuts, `skipped` its skipped calls; `used` is what must not happen."""
        self.at_cut = at_cut
        self.skips = skips
        self.reached = 0
        self.skipped = 0
        self.used = False

    def _note_use(self) -> None:
        self.used = True

    def _at_cut(self, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        if self.at_cut is None:
            return function(*arguments, **keywords)
        self.reached += 1
        return self.at_cut(function, arguments, keywords)

    def _at_feed(self, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        if not self.skips:
            return function(*arguments, **keywords)
        self.skipped += 1
        return self.mark


class Answered(Recorder):
    """Answers the calls of some nodes, and runs all others. For one thread: each needs one of its own.

    What a call is, is found out once for each callee on each way through the objects at hand, and then known.
    """

    def __init__(self, tree: Tree, answers: Mapping[Node, Answer]) -> None:
        super().__init__(tree.root, tree.rewriter, tree.selection)
        self._answers = answers
        self._entry = _Place(self, tree.root, None, None, None, (), {})

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        """Calls the node's answer with the callee and its arguments, where there is one, else the callee."""
        answer = self._answers.get(node)
        return function(*arguments, **keywords) if answer is None else answer(function, arguments, keywords)

    def call(
        self, frame: Frame, site: Site, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> Any:
        if function is next and arguments and not keywords:
            return self._next(frame, site, *arguments)
        if type(function) is Skipped:
            return self._of_skipped(frame, site)(function, arguments, keywords)
        assert isinstance(frame, _Place)
        key = _key(site, function, arguments)
        known = frame.known.get(key)
        if known is None:
            visible = tuple([None if type(value) is Skipped else value for value in arguments])
            known = self._look_up(frame, site, function, visible, keywords)
            if not _is_decided_by(visible[1:] if known.kept[1] is not None else visible):
                if len(frame.known) >= MOST_KNOWN:
                    frame.known.clear()
                frame.known[key] = known
        if known.rewritten is None:
            if known.answer is None:
                return function(*arguments, **keywords)
            return known.answer(function, arguments, keywords)
        inner = _Place(
            self, known.node, frame, known.callee.function, known.callee.receiver, known.rewritten.sites, known.inner
        )
        bound = known.rewritten.bind(known.callee.function, inner)
        return bound(*known.first, *arguments, **{**known.keywords, **keywords})

    def _of_skipped(self, frame: Frame, site: Site) -> Answer:
        """The answer to a call of a skipped value's method; where there is none, calling it says so."""
        here = [
            self._answers[child]
            for child in frame.node.children.values()
            if child.site.id == site.id and child in self._answers
        ]
        return here[0] if len(here) == 1 else lambda function, arguments, keywords: function(*arguments, **keywords)

    def _look_up(
        self, frame: Frame, site: Site, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> _Known:
        callee = resolve(function, arguments, keywords)
        node = self._node(frame, site, callee)
        rewritten = self._expansion(node, callee, frame)
        first = callee.arguments[: len(callee.arguments) - len(arguments)]
        added = function.keywords if isinstance(function, functools.partial) else {}
        kept = function, _special_receiver(function, arguments)
        return _Known(node, self._answers.get(node), rewritten, _without_values(callee), first, added, kept, {})


class _Place(Frame):
    """A frame that knows the calls made in it before, on the same way through the same objects."""

    __slots__ = ("known",)

    def __init__(
        self,
        recorder: Recorder,
        node: Node,
        caller: Frame | None,
        function: FunctionType | None,
        receiver: object,
        sites: tuple[Site, ...],
        known: dict[Any, _Known],
    ) -> None:
        super().__init__(recorder, node, caller, function, receiver, sites)
        self.known = known


@dataclass(frozen=True)
class _Known:
    """What a call is: its node's answer, or the rewritten function and what it is given beside the call's arguments.

    `kept` holds the objects whose identities the call is known by, `inner` what is known of the calls inside it.
    """

    node: Node
    answer: Answer | None
    rewritten: Rewritten | None
    callee: Callee
    first: tuple[Any, ...]
    keywords: Mapping[str, Any]
    kept: tuple[Any, ...]
    inner: dict[Any, _Known]


def _key(site: Site, function: Any, arguments: tuple[Any, ...]) -> Any:
    """What makes a call at a site the same as another: a method is a new object each time, and is told by its parts."""
    special = _special_receiver(function, arguments)
    if special is not None:
        return site.index, id(function), id(special), *map(type, arguments[1:2])
    kinds = (*map(type, arguments[:1]),)
    if type(function) is MethodType:
        return site.index, id(function.__func__), id(function.__self__), kinds
    return site.index, id(function), kinds


def _special_receiver(function: Any, arguments: tuple[Any, ...]) -> Any:
    """The object whose Python method a builtin such as `operator.getitem` runs."""
    if function is operator.getitem or function is iter:
        method = getattr(type(arguments[0]), SPECIAL_METHODS[function], None)
        return arguments[0] if isinstance(method, FunctionType) else None
    return None


def _is_decided_by(arguments: tuple[Any, ...]) -> bool:
    """Whether a call may be on behalf of a step that it is given, and is another one for another step."""
    return any(isinstance(first, (FunctionType, functools.partial)) or is_step(first) for first in arguments[:1])


def _without_values(callee: Callee) -> Callee:
    return Callee(callee.name, (), {}, callee.function, callee.receiver, callee.instance)


class Tree:
    """The calls at `ways` as a tree, with what must be recorded in order to see just these."""

    def __init__(self, ways: Iterable[Way]) -> None:
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

    def _node(self, way: Way) -> Node:
        node = self.root
        for step in way:
            function, _, index = step.site.rpartition("#")
            node = node.child(Site(function, int(index), "call", "", 0, ""), step.name, step.position)
        return node
