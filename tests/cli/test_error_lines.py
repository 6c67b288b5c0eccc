"""What a user sees of an error is a line and an exit code."""

import pytest

from plumb.cli.error_lines import line_and_code
from plumb.core.errors import CommandError, PlumbError, StoreError, TuningError
from plumb.core.plan import PlanError
from plumb.tuning.search.study_storage import StudyError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandError("do this"), 1),
        (CommandError("do this", 2), 2),
        (TuningError("do this", 3), 3),
        (StoreError("do this"), 1),
        (PlanError("do this"), 1),
        (StudyError("do this"), 2),
    ],
)
def test_an_error_that_explains_itself_is_a_line_and_a_code(error, code):
    assert line_and_code(error) == ("plumb: do this", code)


@pytest.mark.parametrize("error", [PlumbError("inside"), KeyError("inside")])
def test_any_other_error_is_a_failure_of_plumb_s(error, capsys, cache_home, monkeypatch):
    monkeypatch.setattr("plumb.instrument.failure_report._said", set())
    assert line_and_code(error) == (None, 1)
    assert "plumb itself failed" in capsys.readouterr().err
