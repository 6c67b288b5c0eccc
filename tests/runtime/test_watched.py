"""What a trial's processes leave unsaid, and what they don't."""

import sys

import pytest

from plumb.runtime.watched import deaths_unsaid


class Finalised:
    def __init__(self, error):
        self.error = error

    def __del__(self):
        raise self.error


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_workers_death_within_a_finaliser_is_not_printed_and_all_else_is(monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: printed.append(str(lost.exc_value)))
    before = sys.unraisablehook
    with deaths_unsaid():
        Finalised(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
        Finalised(RuntimeError("the user's own"))
        Finalised(ValueError("DataLoader worker (pid 7)"))
    assert printed == ["the user's own", "DataLoader worker (pid 7)"]
    assert sys.unraisablehook is before
