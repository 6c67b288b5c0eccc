"""The docstring of every public name says what each argument and result is, and its example runs."""

import doctest
import inspect
import re

import pytest

import plumb

NAMES = sorted(plumb.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = doctest.DocTestFinder(recurse=False).find(getattr(plumb, name), name, globs={"__name__": "__main__"})
    assert [example for test in found for example in test.examples], f"{name} has no example"
    runner = doctest.DocTestRunner()
    for test in found:
        said = []
        assert runner.run(test, out=said.append).failed == 0, "".join(said)


def described():
    """Each public function, class and method with a signature of plumb's own, by its name."""
    for name in NAMES:
        # `plumb.report` is a package that can be called.
        yield name, plumb.report.report if name == "report" else getattr(plumb, name)
        if inspect.isclass(getattr(plumb, name)):
            for member, value in vars(getattr(plumb, name)).items():
                function = getattr(value, "__func__", value)
                if inspect.isfunction(function) and not member.startswith("_") and (name, member) not in INNER:
                    yield f"{name}.{member}", function


# What plumb calls itself, and what replaces a method of torch's.
INNER = {("DataLoader", "run_on"), ("DataLoader", "check_worker_number_rationality"), ("Pipeline", "html_form")}
DESCRIBED = dict(described())


@pytest.mark.parametrize("name", DESCRIBED)
def test_every_argument_is_described(name):
    text = inspect.getdoc(DESCRIBED[name])
    # Most arguments of the loader are torch's, which describes them.
    given = (
        ["dataset", "args", "tune", "kwargs"] if name == "DataLoader" else inspect.signature(DESCRIBED[name]).parameters
    )
    sections = re.findall(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    lines = "".join(sections).splitlines()
    named = [found[1] for line in lines if (found := re.match(r"    \**(\w+): \S", line))]
    assert named == [each for each in given if each not in ("self", "cls")]


@pytest.mark.parametrize("name", [name for name, each in DESCRIBED.items() if inspect.isfunction(each)])
def test_every_result_is_described(name):
    text = inspect.getdoc(DESCRIBED[name])
    returns_none = inspect.signature(DESCRIBED[name]).return_annotation in (None, "None")
    assert ("Returns:" in text or text.startswith("Return ")) is not returns_none
