"""Several guards as one: all are called, the gravest finding counts, and one that raises ends nothing."""

import pytest
from torch.utils.data import DataLoader

from plumb.runtime.guards.guard import Finding, Guards, IdleGuard, Verdict

STALE = Finding(Verdict.RENEW, "stale")
WRONG = Finding(Verdict.PLAIN, "wrong")
LOADER = DataLoader(range(4))


class Finds(IdleGuard):
    def __init__(self, finding):
        self.finding, self.calls = finding, 0

    def batch_wanted(self, loader):
        self.calls += 1
        return self.finding


class Marks(IdleGuard):
    """Wraps what is read, and unwraps what comes back."""

    def __init__(self, name):
        self.name = name

    def indices(self, number, indices):
        return (self.name, number, indices)

    def batch_read(self, number, indices, batch):
        name, marked, inner = batch
        assert (name, marked) == (self.name, number)
        return inner, None


@pytest.mark.parametrize(
    ("findings", "expected"),
    [([], None), ([None, None], None), ([None, STALE], STALE), ([WRONG, STALE], WRONG), ([STALE, WRONG], WRONG)],
)
def test_every_guard_is_called_and_the_gravest_finding_counts(findings, expected):
    guards = [Finds(finding) for finding in findings]
    assert Guards(guards).batch_wanted(LOADER) == expected
    assert all(guard.calls == 1 for guard in guards)


def test_wrappers_come_off_in_the_reverse_order():
    guards = Guards([Marks("inner"), Marks("outer")])
    sent = guards.indices(3, [1, 2])
    assert sent == ("outer", 3, ("inner", 3, [1, 2]))
    assert guards.batch_read(3, [1, 2], sent) == ([1, 2], None)


class Fails(IdleGuard):
    def __init__(self, method):
        setattr(self, method, self.fail)

    def fail(self, *arguments):
        raise ZeroDivisionError("oops")


@pytest.mark.parametrize("method", ["epoch_begins", "batch_wanted", "batch_read"])
def test_a_guard_that_raises_is_dropped_with_one_line_and_its_loader_goes_on_plainly(method, capsys):
    other = Finds(None)
    guards = Guards([Fails(method), other])
    arguments = {"batch_read": (0, [1], "batch")}.get(method, (LOADER,))
    for _ in range(2):
        answer = getattr(guards, method)(*arguments)
        finding = answer[1] if method == "batch_read" else answer
        if _ == 0:
            assert finding.verdict == Verdict.PLAIN
            assert "ZeroDivisionError" in finding.reason
    assert finding is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("plumb: a guard of plumb's own failed (Fails: ZeroDivisionError: oops)")


def test_a_guard_that_fails_where_no_finding_can_be_returned_is_found_at_the_next_batch(capsys):
    guards = Guards([Fails("indices"), Marks("outer")])
    assert guards.indices(0, [1]) == ("outer", 0, [1])
    assert guards.batch_wanted(LOADER).verdict == Verdict.PLAIN
    assert len(capsys.readouterr().err.splitlines()) == 1
