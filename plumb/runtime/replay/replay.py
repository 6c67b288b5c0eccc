"""Replay of a dataset's samples with a cut: its value is kept, made alone, or given."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from plumb.core.config import CallPath, Cut
from plumb.core.errors import PlumbError
from plumb.instrument.recorder import SAMPLE
from plumb.instrument.values import parts
from plumb.runtime.replay.skipped_value import SkippedUsed, SkippedValue
from plumb.runtime.replay.substitution import Answer, SubstitutingRecorder, Tree

NO_ANSWERS: Mapping[CallPath, Answer] = MappingProxyType({})


class ReplayError(PlumbError):
    """A sample can't be read with a cut: the cut was not reached exactly once, or a skipped value was used.

    The sample itself is not affected: read it plainly.
    """


class Replay:
    """Reader of a dataset's samples with a cut, and with other calls answered wherever they are reached.

    Any number of threads may read at once. Pickles as its constructor's arguments; rewritten functions are remade in
    each process. All methods raise `ReplayError` if the cut is not reached exactly once or a skipped value is used, and
    the user's own errors.
    """

    def __init__(self, dataset: Any, cut: Cut | None, answers: Mapping[CallPath, Answer] = NO_ANSWERS) -> None:
        self.dataset = dataset
        self.cut = cut
        self._answers = dict(answers)
        self._threads = _Threads()
        self._tree: Tree | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Replay, (self.dataset, self.cut, self._answers)

    def sample(self, index: Any) -> Any:
        """Return the sample, with the other calls answered and the cut's call run."""
        return self._run(index, None)

    def sample_keeping(self, index: Any, keep: Callable[[Any], None]) -> Any:
        """Return the sample; `keep` gets the cut's value at once, before other code can change it."""

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
        """Return the cut's value without running the rest of the sample, except the user's `finally` and `with`."""
        made: list[Any] = []

        def run_and_leave(function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
            made.append(function(*arguments, **keywords))
            raise _LeaveUserCode

        if self._is_whole:
            return self._run(index, None)
        try:
            self._run(index, run_and_leave)
        except _LeaveUserCode:
            return made[0]
        raise ReplayError(f"the dataset's code catches what plumb leaves it by, after {self._after}")

    def sample_from(self, index: Any, value: Any) -> Any:
        """Return the sample from the cut's value, without running its call and those that only feed it."""
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
        if reading.used or (reading.skipped and any(type(part) is SkippedValue for part in parts(sample))):
            raise ReplayError(f"what is made before {self._after} is needed behind it, too")
        if at_cut is not None and reading.reached != 1:
            raise ReplayError(f"{self._after} was reached {reading.reached} times in a sample, not once")
        return sample

    def _reading(self) -> _ReplayPath:
        """Return the calling thread's own reading of the tree that all threads share."""
        ways = [] if self.cut is None or self._is_whole else [self.cut.way, *self.cut.feeds]
        with self._lock:
            tree = self._tree
            if tree is None:
                tree = self._tree = Tree([*self._answers, *ways])
        return _ReplayPath(tree, self._answers, ways)


class _LeaveUserCode(BaseException):
    """Raised to leave the user's code after the cut. As a BaseException it passes the user's own handlers."""


class _Threads(threading.local):
    reading: _ReplayPath


class _ReplayPath:
    """One thread's path through a dataset's code; the actions at the cut and its feeds are set for each sample."""

    def __init__(self, tree: Tree, answers: Mapping[CallPath, Answer], ways: list[CallPath]) -> None:
        self.mark: Any = SkippedValue({way[-1].name for way in ways}, self._note_use)
        self.begin(None, skips=False)
        table = {tree.nodes[way]: answer for way, answer in answers.items()}
        table.update({tree.nodes[way]: self._at_cut for way in ways[:1]})
        table.update({tree.nodes[way]: self._at_feed for way in ways[1:]})
        self.recorder = SubstitutingRecorder(tree, table)

    def begin(self, at_cut: Answer | None, skips: bool) -> None:
        """Start a sample. `reached` counts its cuts, `skipped` its skipped calls; `used`: a skipped value was used."""
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
