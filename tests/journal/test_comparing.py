"""What programs of the script do unseen is undone; what another process does is not, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tuned_folder import OLD, Tuned

from plumb.core.files_outcome import FilesOutcome
from plumb.journal.keeping import Keeper


@pytest.fixture
def tuned(tmp_path: Path) -> Tuned:
    (tmp_path / "project").mkdir()
    tuned = Tuned(tmp_path / "project", tmp_path / "scratch")
    for name in ("d/x.txt", "d/sub/y.txt", "d/sub/code.py", "archive/f.txt", "f.txt", "g.txt"):
        tuned.file(name, f"the user's {name}".encode())
    (tuned.folder / "d/empty").mkdir()
    subprocess.run(["tar", "cf", "../../t.tar", "f.txt"], cwd=tuned.folder / "archive", check=True)
    (tuned.folder / "link").symlink_to("f.txt")
    os.utime(tuned.folder / "link", ns=(OLD, OLD), follow_symlinks=False)
    return tuned


def shell(command: str, more: str = "") -> str:
    return f"import subprocess; subprocess.run(['sh', '-c', {command!r}], check=True{more})"


UNSEEN = {
    "rm -rf": shell("rm -rf d"),
    "os.system": "os.system('rm -r d')",
    "os.posix_spawn": "os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', 'rm -rf d'], {'PATH': '/bin:/usr/bin'}), 0)",
    "fork and exec": "os.fork() or os.execvp('sh', ['sh', '-c', 'rm -rf d']); os.wait()",
    "find -delete": shell("find d -type f -delete"),
    "a folder renamed": shell("mv d d2"),
    "a file moved into a new folder": shell("mkdir new; mv g.txt new/"),
    "tar over a file": shell("tar xf ../t.tar"),
    "modes": shell("chmod -R 700 d"),
    "a mode without access": shell("chmod -R a-rwx d"),
    "a link set anew": shell("ln -sfn g.txt link"),
    "a link in place of a file": shell("ln -sf g.txt f.txt"),
    "a folder in place of a file": shell("rm f.txt; mkdir f.txt; echo 1 > f.txt/a"),
    "a file in place of a folder": shell("rm -r d; echo 1 > d"),
    "a time": shell("touch -d 2001-01-01 f.txt"),
    "compressed": shell("gzip f.txt"),
    "a cleared environment": shell("rm -rf d; echo 1 > f.txt", ", env={'PATH': '/usr/bin:/bin'}"),
    "a session of its own": shell("setsid -w sh -c 'rm -rf d; echo 1 > f.txt'", ", start_new_session=True"),
    "removed by C": "import ctypes; assert ctypes.CDLL(None).unlink(b'f.txt') == 0",
    "renamed by C": "import ctypes; assert ctypes.CDLL(None).rename(b'g.txt', b'f.txt') == 0",
    "removed, then made by Python": shell("rm -r d f.txt") + "; os.makedirs('d'); Path('f.txt').write_text('new')",
    "changed, then added to by Python": shell("sed -i s/user/x/ f.txt") + "; print('1', file=open('f.txt', 'a'))",
    "its mode set by Python, then removed": "os.chmod('f.txt', 0o600); " + shell("rm f.txt"),
    "renamed by Python, then removed": "os.rename('d', 'd2'); " + shell("rm -r d2"),
    "through a second name": shell("ln f.txt name; echo 1 > name"),
}


@pytest.mark.parametrize("code", UNSEEN.values(), ids=UNSEEN)
def test_what_a_program_does_unseen_is_undone(code, tuned):
    (tuned.folder / "f.txt").chmod(0o640)
    before = tuned.state()
    outcome = tuned.run(code, clean=True)
    assert tuned.state() == before
    assert (tuned.folder / "link").lstat().st_mtime_ns == OLD
    assert not outcome.not_put_back
    assert not outcome.by_others
    assert outcome.put_back or "touch" in code


def test_what_a_program_makes_unseen_is_new(tuned):
    outcome = tuned.run(shell("d=made; mkdir $d; echo 1 > $d/a.txt; echo 2 > b.txt"))
    assert [path.removeprefix(f"{tuned.folder}/") for path in outcome.new] == ["b.txt", "made/"]
    assert not outcome.by_others


def test_a_large_folder_that_is_renamed_comes_back_without_copies(tuned, monkeypatch):
    from plumb.journal import snapshot

    monkeypatch.setattr(snapshot, "_SELDOM_FILE_BYTES_AT_MOST", 10)
    data = tuned.file("data/big.raw", b"b" * 5000)
    before, inode = tuned.state(), data.stat().st_ino
    outcome = tuned.run(shell("mv data old"), clean=True)
    assert tuned.state() == before
    assert data.stat().st_ino == inode
    assert not outcome.not_put_back


def test_what_a_program_removes_without_a_copy_is_named(tuned, monkeypatch):
    from plumb.journal import snapshot

    monkeypatch.setattr(snapshot, "_SELDOM_FILE_BYTES_AT_MOST", 10)
    for number in range(30):
        tuned.file(f"data/{number}.raw", b"b" * 5000)
    outcome = tuned.run(shell("rm -r data"))
    assert len(outcome.not_put_back) == 30
    assert "there is no copy" in outcome.not_put_back[0].why
    lines = outcome.sentences(tuned.folder, 3)
    assert sum("could not put it back" in line for line in lines) == 20
    assert outcome.listed_in in lines[-1]
    assert len(Path(outcome.listed_in).read_text().splitlines()) == 30


class Running:
    """A script that runs a program, and goes on when it is asked to."""

    def __init__(self, tuned: Tuned) -> None:
        self.keeper = Keeper((tuned.folder,), (), str(tuned.folder.parent / "scratch"))
        code = (
            "import subprocess, sys\nfor line in sys.stdin:\n"
            "    subprocess.Popen(['sh', '-c', line]).wait() if line.strip() else None\n    print(flush=True)"
        )
        self._script = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tuned.folder, env=self.keeper.environment(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def do(self, command: str) -> None:
        self._script.stdin.write(f"{command}\n".encode())
        self._script.stdin.flush()
        self._script.stdout.readline()

    def look(self) -> None:
        """Look as often as it takes until the end of the program is noted."""
        self.keeper._open_files._look_again = 0.0
        self.keeper.look_at(self._script.pid)

    def end(self) -> FilesOutcome:
        self._script.communicate()
        return self.keeper.put_back(clean=True)


def test_what_another_process_writes_while_no_program_runs_stays(tuned, monkeypatch):
    from plumb.journal import program_times

    monkeypatch.setattr(program_times, "_STARTED_SECONDS", 0.0)
    running = Running(tuned)
    running.do("rm f.txt")
    running.look()
    os.utime(tuned.folder)
    (tuned.folder / "g.txt").write_text("edited")
    (tuned.folder / "d/x.txt").unlink()
    (tuned.folder / "d/sub/y.txt").chmod(0o600)
    (tuned.folder / "noted.txt").write_text("noted")
    mine = tuned.state()
    outcome = running.end()
    restored = tuned.state()
    # What is gone could have gone while the program ran; to restore it destroys nothing.
    assert {"f.txt", "d/x.txt"} == set(restored) - set(mine)
    assert all(restored[name] == mine[name] for name in mine)
    assert [Path(file.path).name for file in outcome.by_others] == ["y.txt", "g.txt", "noted.txt"]
    assert not outcome.replaced


def test_what_is_replaced_because_of_its_time_is_kept(tuned):
    running = Running(tuned)
    running.do("true")
    before = tuned.state()
    (tuned.folder / "g.txt").write_text("edited")
    (tuned.folder / "noted.txt").write_text("noted")
    (tuned.folder / "d/sub/code.py").write_text("edited = 1")
    outcome = running.end()
    after = tuned.state()
    assert after.pop("d/sub/code.py")[0] == b"edited = 1", "programs seldom write code, but users do"
    assert after == {name: value for name, value in before.items() if name != "d/sub/code.py"}
    assert [Path(path).name for path in outcome.replaced] == ["g.txt", "noted.txt"]
    for name, text in (("g.txt", "edited"), ("noted.txt", "noted")):
        assert Path(f"{outcome.replaced_in}{tuned.folder}/{name}").read_text() == text
    assert outcome.replaced_in in outcome.sentences(tuned.folder, 3)[-1]


def test_a_file_that_another_process_holds_open_is_left_alone(tuned):
    running = Running(tuned)
    running.do("true")
    with open(tuned.folder / "g.txt", "a") as file:
        file.write("more")
        file.flush()
        outcome = running.end()
    assert (tuned.folder / "g.txt").read_text().endswith("more")
    assert [Path(file.path).name for file in outcome.by_others] == ["g.txt"]


@pytest.mark.parametrize("program", ["sleep 600", "setsid sleep 600"])
def test_a_program_that_runs_on_is_seen_though_its_parent_ended(program, tuned):
    from plumb.journal import records

    running = Running(tuned)
    running.do(f"{program} & echo $! > pid")
    running.look()
    kinds = [record["kind"] for record in records.read(running.keeper.folder)]
    os.kill(int((tuned.folder / "pid").read_text()), 9)
    assert records.QUIET not in kinds
    running.end()


def test_plumb_s_own_programs_do_not_count_as_the_script_s(tuned):
    code = (
        "import subprocess\nfrom plumb.host import malloc\nsubprocess.run([sys.executable, '-S', malloc.__file__, '0'])"
    )
    running = f"{code}\nPath(os.environ['PLUMB_JOURNAL'], 'records.jsonl').exists() and sys.exit(3)"
    tuned.run(running)
