"""What an interrupted tuning leaves for the next one: what is kept, for whom, and what is never read."""

import os
import signal
import subprocess
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from script_parts import LOOP, PREAMBLE

from plumb.core.config import Config
from plumb.core.events import TrialDone
from plumb.core.plan import Trial
from plumb.tuning.child_orders import Target
from plumb.tuning.trial_journal import Unfinished, read

TRIAL = Trial(Config(2, 4), 90.0, 100.0, (95.0, 105.0), "measured")
TARGET = Target("train.py", is_module=False)


def kept_with(*trials, comparable="study", arguments=()):
    kept = Unfinished(TARGET, arguments)
    for trial in trials:
        kept.add(TrialDone("loader", trial, comparable))
    return kept


def test_trials_are_kept_for_the_same_script_with_the_same_arguments():
    kept = kept_with(TRIAL, TRIAL)
    assert kept.count == 2
    assert read(Unfinished(TARGET, ()).path, "study") == (TRIAL, TRIAL)
    assert read(kept.path, "another study") == ()
    assert Unfinished(TARGET, ["--lr", "1"]).path != kept.path
    assert Unfinished(Target("other.py", is_module=False), ()).path != kept.path
    assert os.stat(kept.path).st_mode & 0o077 == 0
    assert os.stat(kept.path.parent).st_mode & 0o077 == 0
    kept.forget()
    assert read(kept.path, "study") == ()


def test_what_every_run_measures_anew_is_not_kept():
    kept = kept_with(TRIAL, comparable="")
    assert kept.count == 0
    assert not kept.path.exists()


def test_what_is_old_is_forgotten():
    path = kept_with(TRIAL).path
    last_month = time.time() - 30 * 86_400
    os.utime(path, (last_month, last_month))
    assert read(Unfinished(TARGET, ()).path, "study") == ()


@settings(max_examples=30)
@given(st.binary(max_size=200), st.integers(0, 300))
@example(b'\x80"', 9)
def test_damage_costs_only_what_is_damaged(garbage, cut):
    kept = kept_with()
    kept.forget()
    kept = kept_with(TRIAL)
    whole = kept.path.read_bytes()
    kept.path.write_bytes(whole + whole[:cut] + garbage.replace(b"\n", b"") + b"\n" + whole)
    assert len(read(kept.path, "study")) in (2, 3)


def test_nothing_is_read_that_others_could_have_written(cache_home):
    kept = kept_with(TRIAL)
    kept.path.parent.chmod(0o777)
    assert read(kept.path, "study") == ()
    assert kept_with(TRIAL).count == 0
    kept.path.parent.chmod(0o700)
    kept.path.rename(cache_home / "elsewhere")
    kept.path.symlink_to(cache_home / "elsewhere")
    assert read(kept.path, "study") == ()
    assert kept_with(TRIAL).count == 0


def test_a_full_or_forbidden_cache_folder_only_costs_time(cache_home):
    (cache_home / "plumb").write_text("a file, where the folder should be")
    assert kept_with(TRIAL).count == 0


@pytest.mark.slow
def test_an_interrupted_tuning_is_gone_on_with(plumb, tuning, write, tmp_path, cache_home):
    code = "loader = DataLoader(Numbers(4000, seconds=0.004), batch_size=8)" + LOOP.format(loader="loader")
    write("train.py", PREAMBLE + code)
    running = tuning(30, subprocess.DEVNULL, subprocess.PIPE)
    folder = cache_home / "plumb" / "interrupted"
    while not folder.is_dir() or not list(folder.iterdir()):
        assert running.poll() is None, "the tuning ended before it was interrupted"
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "tune again to go on from there" in err
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["train.py"]
    (file,) = folder.iterdir()
    assert file.read_text().count("\n") >= 1
    ran = plumb("tune", "--budget", 12, "train.py")
    assert ran.code == 0, ran.err
    assert any("known from a tuning that was interrupted" in note for note in ran.loader("loader").notes)
    assert not file.exists(), "the plan holds what was found"
