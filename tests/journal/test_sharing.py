"""Ranks of one launch write one journal: what one of them changed first is never taken for the user's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from plumb.core.files_outcome import FilesOutcome
from plumb.journal.keeping import Keeper

EARLIER = b"epoch,0\n"


@pytest.fixture
def ranks(tmp_path):
    def rank() -> Keeper:
        return Keeper((tmp_path,), (), str(tmp_path / "scratch"), launch="abc")

    return rank


def append(keeper: Keeper, folder: Path, line: str) -> None:
    code = f"print({line!r}, file=open('log.csv', 'a')); open('model.pt', 'w').write({line!r})"
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=keeper.environment(os.environ), check=True)


def test_the_last_rank_puts_back_what_all_have_changed(ranks, tmp_path):
    (tmp_path / "log.csv").write_bytes(EARLIER)
    (tmp_path / "model.pt").write_bytes(b"earlier")
    for _ in range(2):
        with ranks() as first, ranks() as second:
            assert first.folder == second.folder
            assert first.mark != second.mark
            append(first, tmp_path, "1")
            append(second, tmp_path, "2")
            assert first.put_back(clean=False) == FilesOutcome()
            assert (tmp_path / "log.csv").read_bytes() == EARLIER + b"1\n2\n"
            append(second, tmp_path, "3")
            outcome = second.put_back(clean=False)
        assert [Path(path).name for path in outcome.put_back] == ["log.csv", "model.pt"]
        assert (tmp_path / "log.csv").read_bytes() == EARLIER
        assert (tmp_path / "model.pt").read_bytes() == b"earlier"
        assert not Path(first.folder).exists()


def test_the_rank_that_reports_waits_for_the_others(ranks, tmp_path):
    (tmp_path / "log.csv").write_bytes(EARLIER)
    with ranks() as first, ranks() as second:
        append(second, tmp_path, "2")
        leaving = threading.Thread(target=lambda: (time.sleep(0.5), second.put_back(clean=False)))
        leaving.start()
        outcome = first.put_back(clean=False, wait_seconds=30.0)
        leaving.join()
    assert [Path(path).name for path in outcome.put_back] == ["log.csv"]
    assert (tmp_path / "log.csv").read_bytes() == EARLIER


def test_what_a_killed_launch_left_is_not_used_again(ranks, tmp_path):
    killed = ranks()
    append(killed, tmp_path, "1")
    os.close(killed._share.descriptor)
    with ranks() as keeper:
        assert not (Path(keeper.folder) / "records.jsonl").exists()
        keeper.put_back(clean=False)
    assert len(list(Path(keeper.folder).parent.glob("launch-abc-left-*"))) == 1
