"""A tuning that was killed with its watcher is undone by the next one, unless its files were used since."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumb.journal.keeping import Keeper
from plumb.journal.recovery import ALIVE


@pytest.fixture
def keeper(tmp_path):
    return lambda: Keeper((tmp_path,), (), str(tmp_path / "scratch"))


def killed(keeper: Keeper, folder: Path, seconds_ago: float) -> None:
    """Leave what is left of a tuning whose script had changed a file when everything was killed."""
    code = "open('model.pt', 'w').write('half')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=keeper.environment(os.environ), check=True)
    alive = Path(keeper.folder, ALIVE)
    moment = (folder / "model.pt").stat().st_mtime - seconds_ago
    os.utime(alive, (moment, moment))
    os.close(keeper._alive)


def test_what_a_killed_tuning_changed_is_put_back_by_the_next(keeper, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"earlier")
    first = keeper()
    killed(first, tmp_path, 0.0)
    second = keeper()
    assert (tmp_path / "model.pt").read_bytes() == b"earlier"
    assert second.recovered == [
        f"a tuning was killed; the files that it had changed are put back now: {tmp_path}/model.pt"
    ]
    assert not Path(first.folder).exists()
    assert keeper().recovered == []


def test_what_was_used_since_is_left_alone(keeper, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"earlier")
    first = keeper()
    killed(first, tmp_path, 60.0)
    (tmp_path / "model.pt").write_bytes(b"of a training since then")
    [sentence] = keeper().recovered
    assert (tmp_path / "model.pt").read_bytes() == b"of a training since then"
    kept = Path(sentence.rpartition(" in ")[2])
    assert "1 earlier files" in sentence
    assert any(path.read_bytes() == b"earlier" for path in (kept / "copies").iterdir())


def test_a_tuning_that_runs_is_left_alone(keeper, tmp_path):
    with keeper() as running:
        assert keeper().recovered == []
        assert Path(running.folder).exists()
        running.put_back(clean=False)
