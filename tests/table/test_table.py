"""The table of what scripts do: each row comes to the same under plumb as without it, and leaves nothing behind."""

from __future__ import annotations

import pytest
from table.rows import ROWS
from table.runner import run_all

CASES = [(name, mode) for name, row in ROWS.items() for mode in row.modes]


@pytest.fixture(scope="module")
def results(once):
    """What every row came to, in every mode."""
    return once("table_of_scripts", run_all)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), CASES, ids=[f"{name}, {mode}" for name, mode in CASES])
def test_a_script_comes_to_the_same_under_plumb(name, mode, results):
    row, plain, result = ROWS[name], results[name, "plain"], results[name, mode]
    assert "plumb itself failed" not in result.err
    assert "/plumb/" not in result.err.replace("/plumb/site", ""), result.err
    assert result.left == ()
    if mode in ("run", "live"):
        assert (result.code, result.out) == (plain.code, plain.out), result.err
        assert _last_line(result.err) == _last_line(plain.err)
        if mode == "run":
            assert row.run_says in result.err
    elif row.trace_says:
        assert result.code == 1
        assert row.trace_says in result.err
    else:
        assert result.code == 0, result.err


def _last_line(err):
    """What a script said last on standard error: the error that ended it, if one did."""
    return next((line for line in reversed(err.splitlines()) if not line.startswith("plumb: ")), "")
