"""Digests of the code that samples run."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from plumb.core.config import CallPath
from plumb.instrument.callee import Callee
from plumb.instrument.dataset_facts import facts_of
from plumb.instrument.function_rewriter import RewrittenFunction
from plumb.instrument.identity_difference import without_numbers
from plumb.instrument.recorder import SAMPLE, Frame, Node, Recorder
from plumb.instrument.source_digest import code_digest
from plumb.runtime.replay.substitution import Tree

_DATASET = "dataset"


class _Noting(Recorder):
    """Recorder of the functions on the ways of a tree."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree.root, tree.rewriter, tree.selection)
        self.functions: set[FunctionType] = set()
        self._on_the_ways = {step for node in tree.nodes.values() for step in (node, *node.ancestors())}

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        return function(*arguments, **keywords)

    def _expansion(self, node: Node, callee: Callee, frame: Frame) -> RewrittenFunction | None:
        if callee.function is not None and node in self._on_the_ways:
            self.functions.add(callee.function)
        return super()._expansion(node, callee, frame)


def code_on(ways: tuple[CallPath, ...], dataset: Any, index: Any) -> str:
    """Return a digest of the code on the ways, including the last callees, as one sample runs it.

    Raises the dataset's errors.
    """
    noting = _Noting(Tree(ways))
    with noting:
        noting.enter(SAMPLE, operator.getitem, dataset, index)
    return code_digest(noting.functions)


def code_of_samples(dataset: Any) -> str:
    """Return a digest of all user code that a dataset's samples may run, with the options that it names.

    Options are flags, numbers and texts in defaults, closures, modules and classes; the dataset's own attributes may
    change while samples are made. Samples may run different code, so nothing is run here.
    """
    facts = without_numbers(facts_of({_DATASET: dataset}), constants=True)
    options = {path: value for path, value in facts.values.items() if not path.startswith(_DATASET)}
    return hashlib.blake2b(repr((facts.code, options)).encode(), digest_size=16).hexdigest()
