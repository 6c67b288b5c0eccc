"""Whether workers would run a script's main part once more."""

import multiprocessing
import sys
from types import SimpleNamespace

import pytest

from plumb.core.config import Config
from plumb.instrument.main_module import runs_script_again, start_method

WORKERS = Config(num_workers=2, prefetch_factor=2)


@pytest.fixture
def main(tmp_path, monkeypatch):
    """Puts a script in the place of the main module."""

    def put(text):
        (tmp_path / "train.py").write_text(text)
        monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=str(tmp_path / "train.py")))

    return put


@pytest.fixture
def by_default(monkeypatch):
    """Sets what the script has chosen, None for nothing so far, and what Python's own default is."""

    def choose(chosen, default="fork"):
        monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: chosen)
        monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: [default, "spawn"])

    return choose


@pytest.mark.parametrize(
    ("chosen", "default", "context", "planned", "again"),
    [
        (None, "fork", None, None, False),
        ("spawn", "fork", None, None, True),
        ("forkserver", "fork", None, None, True),
        (None, "forkserver", None, None, True),
        ("spawn", "fork", "fork", None, False),
        ("fork", "fork", multiprocessing.get_context("spawn"), None, True),
        ("fork", "fork", None, "spawn", True),
        ("spawn", "fork", None, "fork", False),
    ],
)
def test_the_method_that_will_be_used_decides(chosen, default, context, planned, again, main, by_default):
    by_default(chosen, default)
    config = Config(num_workers=2, prefetch_factor=2, start_method=planned)
    main("train()")
    assert runs_script_again(config, context) is again
    assert not runs_script_again(Config(start_method=planned), context)
    main("if __name__ == '__main__':\n    train()")
    assert not runs_script_again(config, context)


def test_asking_for_the_method_does_not_settle_it():
    before = multiprocessing.get_start_method(allow_none=True)
    start_method()
    assert multiprocessing.get_start_method(allow_none=True) == before
