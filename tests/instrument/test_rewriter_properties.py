"""Generated dataset code, plain and traced: the same values, the same exceptions, the user's line numbers."""

import itertools
import linecache
import traceback

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from plumb.instrument.function_rewriter import Rewriter
from plumb.instrument.recorder import SAMPLE, Frame, Node, Recorder

PRELUDE = """
import contextlib
import functools
import math
import operator

LIMIT = 3

def doubled(value):
    return value * 2

def doubling(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return doubled(function(*args, **kwargs))
    return wrapper

@doubling
def decorated(value, *more, extra=1):
    return value + sum(more) + extra

@contextlib.contextmanager
def entered(value):
    yield value

def counted(count):
    for number in range(count):
        got = yield number * 2
        if got:
            yield got
    return count

def relayed(count):
    result = yield from counted(count)
    yield result

class Base:
    offset = 1

    def __init__(self):
        self.__hidden = [5, 6, 7]
        self.table = {"a": 1, "b": [2, 3]}

    def shift(self, value, by=1):
        return value + by + self.offset

    def peek(self, index):
        return self.__hidden[index]

    @staticmethod
    def fixed(value):
        return [value, value]

    @classmethod
    def named(cls, value):
        return cls.__name__ + str(value)

class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, value, **options):
        return value * self.factor + len(options)

class Data(Base):
    def __init__(self):
        super().__init__()
        self.steps = [Scaled(2), doubled, lambda v: v - 1, functools.partial(math.fmod, 7)]

    def shift(self, value, by=2):
        return super().shift(value, by=by) * 2
"""

NUMBERS = ["i", "x", "y", "z", "xs[0]", "LIMIT", "0", "1", "2.5", "self.table['a']"]
OTHERS = ["xs", "'ab'", "None", "[1, 2, 3]", "(4, 5)", "{'k': 6}", "self.table"]
ATOMS = st.one_of(*[st.sampled_from(NUMBERS)] * 4, st.sampled_from(OTHERS))


OPERATORS = ["+", "-", "*", "/", "//", "%", "&", "|", "<", ">=", "==", "!=", "in", "is", "and", "or"]
TEMPLATES = """
(-{})
(not {})
{}[0]
xs[{}]
{}[1:]
xs[::{}]
{}.real
xs.index({})
self.missing({})
self.shift({})
self.shift({}, by=3)
self.peek({})
self.fixed({})
self.table[{}]
Data.named({})
Scaled(3)({}, **{{'a': 1}})
decorated({})
decorated({}, *xs, extra=2)
(lambda q: q + {})(1)
len({})
str({})
sorted({})
max({}, 1)
f'{{{}!r:>5}}'
({} if x else y)
(1 < {} < 3)
(w := {}, w)
[*relayed(2), {}]
list(counted({}))
list(map(self.shift, [{}, 1]))
list(map({}, xs))
list(filter(None, [{}, 0]))
list(filter(lambda q: q != {}, xs))
next(iter([{}]))
next(iter([]), {})
operator.itemgetter(0)([{}])
sum(v * 2 for v in [{}])
[doubled(v) for v in {}]
[f(2) for f in self.steps[:2]] + [{}]
[a + b for a, b in zip(xs, [{}, 1, 2])]
{{v: k for k, v in enumerate({})}}
""".strip().splitlines()
SPREAD_TEMPLATES = ["doubled(\n    {}\n)", "str(\n    {}\n)\\\n.strip()\\\n.upper()"]


def _expressions(children):
    binary = st.tuples(children, st.sampled_from(OPERATORS), children).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    templates = st.sampled_from([*TEMPLATES, *SPREAD_TEMPLATES])
    return st.one_of(binary, st.tuples(templates, children).map(lambda t: t[0].format(t[1])))


EXPRESSIONS = st.recursive(ATOMS, _expressions, max_leaves=5)
SIMPLE = """
x = {}
y = {}
z = {}
x += {}
y *= {}
z -= {}
x, y = {}, 1
x = y = {}
x: int = {}
xs[0] = {}
xs[x] = {}
xs[0] += 2
xs[:1] = [{}]
del xs[{}]
xs.append({})
self.table['a'] = {}
self.table['n'] += 1
self.steps[3]({})
raise ValueError({})
assert {}, 'said so'
return {}
def inner(q={}): return q + x
z = inner({})
import json; x = json.dumps({})
""".strip().splitlines()
HEADERS = """
for z in [{}]:
for z in {}[:4]:
for z in counted({}):
for x, z in zip(xs, {}):
for z in enumerate(relayed(2), {}):
if {}:
with entered({}) as z:
""".strip().splitlines()


def _indented(lines):
    return ["    " + line for line in lines]


def _statements(children):
    body = st.lists(children, min_size=1, max_size=3).map(lambda blocks: list(itertools.chain(*blocks)))
    headed = st.tuples(st.sampled_from(HEADERS), EXPRESSIONS, body)
    handler = ["except (TypeError, KeyError) as error:", "    y = str(error)"]
    return st.one_of(
        headed.map(lambda t: [t[0].format(t[1]).replace("\n", " "), *_indented(t[2])]),
        body.map(lambda lines: ["while x or True:", *_indented([*lines, "break"])]),
        st.tuples(body, body).map(lambda t: ["try:", *_indented(t[0]), *handler, *_indented(t[1])]),
        st.tuples(body, body).map(lambda t: ["try:", *_indented(t[0]), "finally:", *_indented(t[1])]),
        body.map(lambda lines: ["match z:", "    case -1 | 2:", *_indented(_indented(lines))]),
    )


SIMPLE_STATEMENTS = st.tuples(st.sampled_from(SIMPLE), EXPRESSIONS).map(lambda t: t[0].format(t[1]).splitlines())
BODIES = st.lists(st.recursive(SIMPLE_STATEMENTS, _statements, max_leaves=4), min_size=1, max_size=5)


class Passing(Recorder):
    """Runs everything, and does nothing else."""

    def run(self, node, function, arguments, keywords, leaf):
        return function(*arguments, **keywords)


pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning")
counter = itertools.count()


def load(source):
    """Runs `source` as a module of its own, that `linecache` knows."""
    filename = f"/generated/dataset_{next(counter)}.py"
    linecache.cache[filename] = len(source), None, source.splitlines(keepends=True), filename
    namespace = {"__name__": "generated"}
    exec(compile(source, filename, "exec"), namespace)
    return namespace, filename


def outcome(call, filename):
    """What a call comes to: its value, or its exception with the lines of the user's code that it passed through."""
    try:
        return "value", repr(call())
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [(frame.lineno, frame.name) for frame in frames if frame.filename == filename]
        return "error", type(error), str(error), lines


def recorded(function, *arguments):
    recorder = Passing(Node(None, SAMPLE, "", ""), Rewriter())

    def call():
        with recorder:
            return recorder.enter(SAMPLE, function, *arguments)

    return call, recorder


def method(name, body):
    """The source of a module whose class has a method with this body."""
    lines = ["x = y = z = i", "xs = [3, 1, 2]", *itertools.chain(*body), "return x, y, z, xs, self.table"]
    return PRELUDE + "\n".join([f"    def {name}(self, i):", *_indented(_indented(lines)), ""])


def assume_loaded(source):
    try:
        return load(source)
    except SyntaxError:
        reject()


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES, index=st.integers(-1, 3))
def test_generated_methods_do_the_same(body, index):
    namespace, filename = assume_loaded(method("__getitem__", body))
    recorder = Passing(Node(None, SAMPLE, "", ""), Rewriter())

    def call():
        with recorder:
            return recorder.enter(SAMPLE, namespace["Data"]().__getitem__, index)

    assert outcome(call, filename) == outcome(lambda: namespace["Data"]()[index], filename)
    assert next(iter(recorder.root.children.values())).function == "generated:Data.__getitem__"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES, index=st.integers(-1, 3), keep=st.frozensets(st.integers(0, 12)))
def test_generated_methods_do_the_same_with_a_part_of_their_sites(body, index, keep):
    namespace, filename = assume_loaded(method("read", body))
    recorder = Passing(Node(None, SAMPLE, "", ""), Rewriter())
    part = recorder.rewriter.rewrite(namespace["Data"].read, keep)
    bound = part.bind(namespace["Data"].read, Frame(recorder, recorder.root, None, None, None, part.sites))

    def call():
        with recorder:
            return bound(namespace["Data"](), index)

    assert part.sites == recorder.rewriter.rewrite(namespace["Data"].read).sites
    assert outcome(call, filename) == outcome(lambda: namespace["Data"]().read(index), filename)
