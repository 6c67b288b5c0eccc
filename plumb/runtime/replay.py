"""A dataset's own code, run with some of its calls answered from elsewhere.

The calls are named by their ways, as a trace found them. On the ways, the user's functions are rewritten as a trace
rewrites them, but only the calls that lead to an answered one are routed; everything else runs as it stands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from plumb.plan import Way
from plumb.trace.recorder import SAMPLE, Node, Recorder, Selection
from plumb.trace.rewrite import Rewriter
from plumb.trace.sites import Site

Answer = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]


class Answered(Recorder):
    """Answers the calls of some nodes, and runs all others. For one thread: each needs one of its own."""

    def __init__(self, tree: Tree, answers: Mapping[Node, Answer]) -> None:
        super().__init__(tree.root, tree.rewriter, tree.selection)
        self._answers = answers

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        """Calls the node's answer with the callee and its arguments, where there is one, else the callee."""
        answer = self._answers.get(node)
        return function(*arguments, **keywords) if answer is None else answer(function, arguments, keywords)


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
        self.selection = Selection(frozenset(expanded), kept)

    def _node(self, way: Way) -> Node:
        node = self.root
        for step in way:
            function, _, index = step.site.rpartition("#")
            node = node.child(Site(function, int(index), "call", "", 0, ""), step.name, step.position)
        return node
