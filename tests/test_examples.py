"""The example in the docstring of every public name runs."""

import doctest

import pytest

import plumb

NAMES = sorted(plumb.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    public = plumb.trace.trace if name == "trace" else getattr(plumb, name)
    found = doctest.DocTestFinder(recurse=False).find(public, name, globs={"__name__": "__main__"})
    assert [example for test in found for example in test.examples], f"{name} has no example"
    runner = doctest.DocTestRunner()
    for test in found:
        said = []
        assert runner.run(test, out=said.append).failed == 0, "".join(said)
