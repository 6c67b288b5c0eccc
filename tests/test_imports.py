"""What is imported, and when."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "import plumb"],
        ["-c", "import plumb; plumb.tuned(type('Data', (), {})); plumb.operator(lambda: 0)"],
        ["-m", "plumb", "--help"],
        ["-m", "plumb", "tune", "--help"],
    ],
)
def test_light_commands_import_neither_torch_nor_optuna(words):
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "plumb" in imported
    assert not imported & {"torch", "optuna", "numpy", "networkx"}


def test_public_names_are_those_that_can_be_used():
    import plumb

    for name in plumb.__all__:
        assert getattr(plumb, name).__doc__
    with pytest.raises(AttributeError):
        _ = plumb.no_such_name
