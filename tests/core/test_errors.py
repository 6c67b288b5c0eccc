"""Every error that plumb raises has one base."""

import ast
import builtins
from pathlib import Path

import pytest

import plumb
from plumb.core.errors import PlumbError

# They pass through `except Exception`, of the user's code too.
PAST_EXCEPTION = {"SignalledError", "SkippedUsed", "_LeaveUserCode"}


def classes():
    """The bases of each class in plumb's sources, by its name."""
    for file in Path(plumb.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield node.name, [base.id for base in node.bases if isinstance(base, ast.Name)]


def test_all_errors_have_one_base():
    bases = dict(classes())

    def ancestors(name):
        return {name}.union(*(ancestors(base) for base in bases.get(name, ())))

    raised = {
        name: found
        for name in bases
        for found in [ancestors(name)]
        if any(
            isinstance(kind := getattr(builtins, each, None), type) and issubclass(kind, BaseException)
            for each in found
        )
    }
    assert {"StudyError", "TooLargeError", "DrawsError"} <= set(raised)
    assert {name for name, found in raised.items() if "PlumbError" not in found} == PAST_EXCEPTION
    assert all("BaseException" in raised[name] and "Exception" not in raised[name] for name in PAST_EXCEPTION)


def test_errors_that_code_catches_by_a_class_of_python_s_keep_it():
    from plumb.journal.copying import TooLargeError
    from plumb.runtime.deferred.placeholder import VariesError
    from plumb.tracing.sample_source import TraceError

    for kind, python in ((TooLargeError, OSError), (VariesError, RuntimeError), (TraceError, ValueError)):
        with pytest.raises(python, match="too much") as caught:
            raise kind("too much")
        assert str(caught.value) == "too much"
        assert isinstance(caught.value, PlumbError)
