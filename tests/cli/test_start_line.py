"""Before a script starts, one line on standard error says that it really runs, and what becomes of its files."""

import pytest


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tune", "--budget", 5], ("training included", "new ones are listed")),
        (["tune", "--budget", 5, "--json", "--clean"], ("training included", "new ones are removed")),
        (["trace", "--budget", 5], ("until a sample is traced", "new ones are listed")),
        (["trace", "--budget", 5, "--json"], ("until a sample is traced",)),
    ],
    ids=["tune", "tune-json", "trace", "trace-json"],
)
def test_it_is_said_once_and_first(words, says, plumb, write):
    write("train.py", "print('it starts')\n")
    ran = plumb(*words, "train.py")
    first, *rest = ran.err.splitlines()
    assert first.startswith("plumb: train.py is run for real, ")
    assert all(each in first for each in (*says, "those that existed before are put back"))
    assert not any("is run for real" in line for line in rest)
    assert "is run for real" not in ran.out
