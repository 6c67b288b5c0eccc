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
from plumb.journal.sharing import Together, remove_killed

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
    killed._share.close()
    with ranks() as keeper:
        assert not (Path(keeper.folder) / "records.jsonl").exists()
        keeper.put_back(clean=False)
    assert len(list(Path(keeper.folder).parent.glob("launch-abc-left-*"))) == 1


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_launch_leaves_no_lock_files(ranks, tmp_path):
    with ranks() as first, ranks() as second:
        root = Path(first.folder).parent
        first.put_back(clean=False)
        assert names(root) == {"launch-abc", "launch-abc.users", "launch-abc.door"}
        second.put_back(clean=False)
        assert names(root) == set()


def test_the_next_tuning_removes_the_lock_files_of_a_killed_launch_and_of_no_other(ranks, tmp_path):
    killed = ranks()
    killed._share.close()
    with Keeper((tmp_path,), (), str(tmp_path / "scratch"), launch="other") as living:
        root = Path(living.folder).parent
        assert not {"launch-abc.users", "launch-abc.door"} & names(root)
        with Keeper((tmp_path,), (), str(tmp_path / "scratch")) as third:
            assert {"launch-other", "launch-other.users", "launch-other.door"} <= names(root)
            third.put_back(clean=False)
        living.put_back(clean=False)


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder / "thing"


def test_who_waits_at_a_door_that_the_last_one_removes_meets_those_who_come_later(shared):
    last, waiting, later, begun = Together(str(shared)), Together(str(shared)), Together(str(shared)), []
    last.enter(lambda: begun.append("last"))
    entering = threading.Thread(target=lambda: waiting.enter(lambda: begun.append("waiting")))

    def finish() -> None:
        entering.start()
        time.sleep(0.3)  # it has opened the door's file by now, and waits

    assert last.leave(0.0, finish)
    entering.join()
    later.enter(lambda: begun.append("later"))
    assert begun == ["last", "waiting"]
    assert not waiting.leave(0.0, lambda: begun.append("too early"))
    assert later.leave(0.0, lambda: begun.append("end"))
    assert begun == ["last", "waiting", "end"]
    assert names(shared.parent) == set()


def test_a_launch_that_is_just_beginning_is_not_taken_for_a_killed_one(shared):
    ended, part = [], Together(str(shared))

    def begin() -> None:
        remove_killed(shared.parent, ended.append)

    part.enter(begin)
    remove_killed(shared.parent, ended.append)
    assert ended == []
    part.close()
    remove_killed(shared.parent, ended.append)
    assert ended == [shared]
    assert names(shared.parent) == set()


def test_an_inherited_part_that_has_ended_does_not_end_the_next_launch(shared):
    first, inherited = Together(str(shared)), None
    first.enter(lambda: None)
    inherited = Together(str(shared), os.dup(first.descriptor))
    assert first.leave(0.0, lambda: None)
    following = Together(str(shared))
    following.enter(lambda: None)
    assert not inherited.leave(0.0, lambda: pytest.fail("it ended what is another launch's"))
    assert following.leave(0.0, lambda: None)
