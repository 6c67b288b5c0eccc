"""The log is silent unless it is asked for."""

import logging
import sys

import pytest
from click.testing import CliRunner

from plumb.core import log


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setenv(log.VARIABLE, "")
    log.configure()
    yield
    monkeypatch.undo()
    log.configure()


def said(capsys, asked, monkeypatch):
    monkeypatch.setenv(log.VARIABLE, asked)
    log.configure()
    logger = log.logger("plumb.some.module")
    logger.info("a phase")
    logger.debug("a trial")
    return capsys.readouterr().err


@pytest.mark.parametrize("asked", ["", "0", "off"])
def test_without_it_nothing_is_printed_even_if_the_script_prints_its_own_log(capsys, asked, monkeypatch):
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    root.addHandler(handler)
    monkeypatch.setattr(root, "level", logging.DEBUG)
    try:
        assert said(capsys, asked, monkeypatch) == ""
    finally:
        root.removeHandler(handler)


def test_a_level_says_how_much(capsys, monkeypatch):
    [line] = said(capsys, "info", monkeypatch).splitlines()
    assert line.endswith("plumb.some.module: a phase")
    assert len(said(capsys, "debug", monkeypatch).splitlines()) == 2
    assert len(said(capsys, "1", monkeypatch).splitlines()) == 2


def test_a_closed_standard_error_is_no_error(monkeypatch):
    monkeypatch.setenv(log.VARIABLE, "debug")
    log.configure()
    monkeypatch.setattr(sys, "stderr", None)
    log.logger("plumb").debug("nobody reads it")


@pytest.mark.parametrize("command", ["tune", "trace", "run"])
def test_verbose_asks_for_all_in_the_script_s_process_too(command):
    from plumb.cli.app import cli

    assert not logging.getLogger("plumb").isEnabledFor(logging.DEBUG)
    result = CliRunner().invoke(cli, [command, "--verbose"])
    assert "name a script to run" in str(result.exception)
    assert logging.getLogger("plumb").isEnabledFor(logging.DEBUG)


def test_a_guard_s_finding_and_its_failure_are_logged(caplog):
    from plumb.runtime.guards.guard import Finding, Guards, IdleGuard, Verdict

    class Finds(IdleGuard):
        def epoch_begins(self, loader):
            return Finding(Verdict.RENEW, "the dataset has changed")

    class Fails(IdleGuard):
        def epoch_begins(self, loader):
            raise KeyError("broken")

    with caplog.at_level(logging.DEBUG, logger="plumb"):
        Guards([Finds(), Fails()]).epoch_begins(None)
    assert "Finds.epoch_begins: RENEW: the dataset has changed" in caplog.text
    assert "Traceback" in caplog.text


def test_each_configuration_that_is_tried_is_logged(caplog):
    from plumb.core.config import Config
    from plumb.tuning.search.ledger import Ledger

    with caplog.at_level(logging.DEBUG, logger="plumb"):
        Ledger(None, 0, lambda trial: None).failed(Config(num_workers=3, prefetch_factor=2), "ended: out of memory")
    assert "num_workers=3" in caplog.text
    assert "ended: out of memory" in caplog.text
