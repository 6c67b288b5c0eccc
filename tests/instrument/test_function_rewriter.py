"""Rewriting single functions: what is kept, what is refused."""

import asyncio
import inspect
import linecache
import sys
import traceback

import pytest

from plumb.instrument.ast_sites import AstSite
from plumb.instrument.function_rewriter import Rewriter
from plumb.instrument.recorder import SAMPLE, Node, Recorder


class Listing(Recorder):
    """Runs everything, and lists the names of the operators in the order in which they end."""

    def __init__(self):
        super().__init__(Node(None, SAMPLE, "", ""), Rewriter())
        self.operators = []

    def run(self, node, function, arguments, keywords, leaf):
        result = function(*arguments, **keywords)
        if leaf:
            self.operators.append(node.name)
        return result


def traced(function, *arguments):
    recorder = Listing()
    with recorder:
        return recorder.enter(SAMPLE, function, *arguments), recorder.operators


def load(value):
    return [value, value]


class Shapes:
    __secret = 3
    count = 0

    def mangled(self):
        return self.__secret + abs(-1)

    def closing(self, start):
        total = start

        def add(value):
            nonlocal total
            total += abs(value)
            return total

        add(1)
        return add(2), total

    @staticmethod
    def static(value):
        return abs(value)

    @classmethod
    def counted(cls, value):
        cls.count += abs(value)
        return cls.count

    def recursive(self, depth):
        return 0 if depth == 0 else abs(1) + self.recursive(depth - 1)

    def defaults(self, a, /, b=2, *rest, c=3, **more):
        return a, b, rest, c, more, load(a)

    def chained(self, text):
        return (
            text.strip()
            .upper()
            .missing()
        )  # fmt: skip

    def with_locals(self, value):
        doubled = abs(value) * 2
        return sorted(locals()), doubled

    def own_frame(self):
        return sys._getframe().f_code.co_name

    async def waiting(self):
        return abs(-1)


class Child(Shapes):
    def mangled(self):
        return super().mangled() + 1


def test_private_names_and_super_keep_their_meaning():
    assert traced(Child().mangled) == (5, ["abs"])


def test_closures_share_their_cells_with_the_plain_function():
    assert traced(Shapes().closing, 5) == ((8, 8), ["abs", "abs"])


def test_static_and_class_methods():
    assert traced(Shapes().static, -2) == (2, ["abs"])
    assert traced(Child.counted, -2) == (2, ["abs"])


def test_recursion_is_expanded_once():
    assert traced(Shapes().recursive, 5) == (5, ["abs", "recursive"])


def test_defaults_and_all_kinds_of_parameters():
    recorder = Listing()
    with recorder:
        got = recorder.enter(SAMPLE, lambda: Shapes().defaults(1, 5, 6, c=7, d=8))
    assert got == (1, 5, (6,), 7, {"d": 8}, [1, 1])
    assert traced(Shapes().defaults, 1)[0] == (1, 2, (), 3, {}, [1, 1])


def test_a_method_on_a_line_of_its_own_fails_at_that_line():
    with pytest.raises(AttributeError) as plain:
        Shapes().chained(" a ")
    with pytest.raises(AttributeError) as recorded:
        traced(Shapes().chained, " a ")

    def lines(error):
        return [f.lineno for f in traceback.extract_tb(error.tb) if f.name == "chained"]

    assert lines(recorded) == lines(plain)


@pytest.mark.parametrize("name", ["with_locals", "own_frame", "waiting"])
def test_code_that_sees_its_frame_and_asynchronous_code_are_left_alone(name):
    assert Rewriter().rewrite(getattr(Shapes, name)) is None


def test_what_is_not_rewritten_is_one_operator():
    assert traced(Shapes().with_locals, -2) == ((["doubled", "self", "value"], 4), ["with_locals"])
    assert traced(Shapes().own_frame) == ("own_frame", ["own_frame"])
    coroutine, operators = traced(Shapes().waiting)
    assert operators == ["waiting"]
    assert asyncio.run(coroutine) == 1


def test_no_source_is_one_operator():
    namespace = {}
    exec("def hidden(value):\n    return abs(value)", namespace)
    assert traced(namespace["hidden"], -3) == (3, ["hidden"])


def test_source_that_is_not_what_runs_is_refused():
    filename = "/generated/edited.py"
    linecache.cache[filename] = 1, None, ["def edited(value):\n", "    return abs(value) + 1\n"], filename
    namespace = {"__name__": "edited"}
    exec(compile("def edited(value):\n    return abs(value)\n", filename, "exec"), namespace)
    assert traced(namespace["edited"], -3) == (3, ["edited"])


def test_lambdas_on_one_line_are_told_apart():
    first, second = (lambda v: abs(v)), (lambda v: load(v))
    assert traced(first, -1) == (1, ["abs"])
    assert traced(second, -1) == ([-1, -1], [])


class Mapping:
    def applied(self, values):
        return list(map(abs, filter(self.odd, values)))

    def odd(self, value):
        return value % 2

    def own(self, values):
        def map(function, values):
            return function, values

        return map(abs, values)


def test_calls_through_map_and_filter_are_seen():
    assert traced(Mapping().applied, [-1, 2, 3]) == ([1, 3], ["abs", "abs", "list"])
    function, values = traced(Mapping().own, [-1])[0]
    assert function is abs
    assert values == [-1]


def test_sites_are_numbered_the_same_however_many_are_kept():
    full = Rewriter().rewrite(Shapes.closing)
    part = Rewriter().rewrite(Shapes.closing, frozenset({1}))
    assert [site.index for site in full.sites] == list(range(len(full.sites)))
    assert part.sites == full.sites
    assert part.code != full.code
    site = full.sites[0]
    assert isinstance(site, AstSite)
    assert site.id == f"{__name__}:Shapes.closing#0"
    assert site.line == inspect.getsourcelines(Shapes.closing)[1] + 8


def test_the_bound_function_looks_like_the_original():
    rewritten = Rewriter().rewrite(Shapes.defaults)
    bound = rewritten.bind(Shapes.defaults, Listing()._entry)
    assert (bound.__name__, bound.__qualname__) == (Shapes.defaults.__name__, Shapes.defaults.__qualname__)
    assert (bound.__defaults__, bound.__kwdefaults__) == (Shapes.defaults.__defaults__, Shapes.defaults.__kwdefaults__)
    assert bound.__code__.co_filename == __file__
    with pytest.raises(TypeError, match=r"Shapes\.defaults\(\) missing 1 required positional argument"):
        bound(Shapes())
