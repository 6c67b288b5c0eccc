"""Loaders are known by the names that the source gives them."""

import sys

import pytest

from plumb.instrument.call_site import begins_anew, find_site, is_library, loops_plainly

CASES = {
    "loader = make()": "loader",
    "loader: object = make()": "loader",
    "class Self: pass\nself = Self()\nself.train_loader = make()": "train_loader",
    "loaders = {}\nloaders['train'] = make()": "loaders['train']",
    "loaders = {'val': 1,\n  'train': make()}": "loaders['train']",
    "first, second = 1, make()": "second",
    "first, second = (\n    make(),\n    2,\n)": "first",
    "loader = (lambda: make())()": "loader",
    "loaders = [make() for _ in range(1)]": "loaders",
    "def build():\n    return make()\nloader = build()": "loader",
    "def build():\n    inner = make()\n    return inner\nouter = build()": "inner",
    "def build():\n    return 1, make()\ntrain, val = build()": "val",
    "def build():\n    return {'train': make()}\nloaders = build()": "loaders['train']",
    "def build():\n    return [make()]\nloaders = build()": "loaders[0]",
    "def train_dataloader():\n    return make()\ntrain_dataloader()": "train_dataloader",
    "make()": "loader",
    "loader = make(); kept = []": "loader",
    "if True: first = 1; loader = make(); kept = []": "loader",
    "kept = []; make()": "loader",
    "make(); kept = []": "loader",
    "def build(): kept = []; return make()\nloader = build(); rest = []": "loader",
    "def main():\n    for _ in [make()]: pass\nmain()": "loader",
}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="columns of calls are not known before Python 3.11")
@pytest.mark.parametrize("source", CASES)
def test_names(source, tmp_path):
    path = tmp_path / "train.py"
    path.write_text(source)
    sites = []

    def make():
        sites.append(find_site(sys._getframe(1)))

    exec(compile(source, str(path), "exec"), {"make": make, "__name__": "__main__"})
    assert [site.name for site in sites] == [CASES[source]]
    assert source.splitlines()[sites[0].line - 1].count("make()")
    assert str(sites[0]).startswith("train.py:")


def test_code_without_a_source_has_a_site_all_the_same():
    sites = []
    exec(compile("loader = make()", "<input>", "exec"), {"make": lambda: sites.append(find_site(sys._getframe(1)))})
    assert sites[0].name == "loader"


def test_what_is_a_library():
    import torch

    assert is_library(torch.__file__)
    assert is_library(sys.modules["json"].__file__ if "json" in sys.modules else pytest.__file__)
    assert not is_library("/home/user/project/train.py")


def test_a_loader_that_a_library_makes_is_placed_where_the_user_called_it():
    import contextlib

    sites = []
    stack = contextlib.ExitStack()
    stack.callback(lambda: sites.append(find_site(sys._getframe(1))))
    stack.close()
    assert sites[0].by_library
    assert sites[0].library == "contextlib"
    assert sites[0].file == __file__


LOOPS = {
    "for x in Loader(): pass": True,
    "[x for x in Loader()]": True,
    "for i, x in enumerate(Loader()): pass": True,
    "list(zip(Loader(), Loader()))": True,
    "batches = iter(Loader())": False,
    "loader = Loader()\nfor _ in range(2):\n    batches = iter(loader)": False,
    "for x in iter(Loader()): pass": False,
}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="columns of calls are not known before Python 3.11")
@pytest.mark.parametrize("source", LOOPS)
def test_plain_loops_are_told_from_those_that_may_count(source, tmp_path):
    path = tmp_path / "train.py"
    path.write_text(source)
    seen = []

    class Loader:
        def __iter__(self):
            seen.append(loops_plainly(sys._getframe(1)))
            return iter(())

    exec(compile(source, str(path), "exec"), {"Loader": Loader})
    assert set(seen) == {LOOPS[source]}


STEPS = {
    "it = Loader()\nfor _ in range(3):\n    next(it)": False,
    "it = Loader()\ntry:\n    x, y = next(it)\nexcept StopIteration:\n    it = iter([1])": True,
    "it = Loader()\ntry: next(\n  it\n  )\nexcept (KeyError, StopIteration): it = iter([1]); next(it)": True,
    "it = Loader()\ntry:\n    next(it)\nexcept StopIteration:\n    pass": False,
    "it = Loader()\ntry:\n    next(it)\nexcept KeyError:\n    it = iter([1])": False,
    "it = Loader()\ntry:\n    pass\nexcept StopIteration:\n    it = iter([1])\nnext(it)": False,
}


@pytest.mark.parametrize("source", STEPS)
def test_loops_that_make_another_iterator_when_one_has_ended(source, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(source)
    seen = []

    class Loader:
        def __next__(self):
            seen.append(begins_anew(sys._getframe(1)))
            return 1, 2

    exec(compile(source, str(path), "exec"), {"Loader": Loader})
    assert set(seen) == {STEPS[source]}


def test_a_progress_bar_passes_a_plain_loop_on():
    tqdm = pytest.importorskip("tqdm")
    seen = []

    class Loader:
        def __iter__(self):
            seen.append(loops_plainly(sys._getframe(1)))
            return iter(())

    assert not list(tqdm.tqdm(Loader(), disable=True))
    assert seen == [True]
