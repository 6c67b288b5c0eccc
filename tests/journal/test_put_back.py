"""Whatever a script does to files that exist, they are as they were when the journal is put back."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tuned_folder import OLD, Tuned

from plumb.core.files_outcome import FilesOutcome
from plumb.journal.keeping import Keeper


@pytest.fixture
def tuned(tmp_path: Path) -> Tuned:
    (tmp_path / "project").mkdir()
    return Tuned(tmp_path / "project", tmp_path / "scratch")


CHANGES = {
    "opened to be written": "open('model.pt', 'wb').write(b'new')",
    "opened without being written": "open('model.pt', 'r+b').close(); open('log.csv', 'a').close()",
    "changed in place": "f = open('model.pt', 'r+b'); f.seek(3); f.write(b'XX')",
    "the same length": "Path('model.pt').write_bytes(b'x' * Path('model.pt').stat().st_size)",
    "added to": "print('epoch,1', file=open('log.csv', 'a'))",
    "added to, then written anew": "print('1', file=open('log.csv', 'a')); open('log.csv', 'w').write('all')",
    "os.open": "os.write(os.open('model.pt', os.O_WRONLY | os.O_TRUNC), b'new')",
    "replaced by a temporary file": "Path('model.pt.tmp').write_bytes(b'n'); os.replace('model.pt.tmp', 'model.pt')",
    "replaced twice": "for n in '12': Path('t').write_text(n); os.replace('t', 'model.pt')",
    "removed": "os.remove('model.pt'); Path('log.csv').unlink()",
    "removed and made again": "os.remove('model.pt'); Path('model.pt').write_bytes(b'new')",
    "renamed": "os.rename('model.pt', 'model.pt.old')",
    "renamed, then changed": "os.rename('model.pt', 'old.pt'); f = open('old.pt', 'ab'); f.write(b'more')",
    "renamed, and made again": "os.rename('model.pt', 'old.pt'); Path('model.pt').write_bytes(b'new')",
    "renamed over another": "os.rename('model.pt', 'log.csv')",
    "rotated twice, with the same content": "for _ in range(2): os.rename('model.pt', 'log.csv'); "
    "Path('model.pt').write_bytes(Path('log.csv').read_bytes())",
    "two exchanged": "os.rename('model.pt', 't'); os.rename('log.csv', 'model.pt'); os.rename('t', 'log.csv')",
    "a log that goes round": (
        "import logging.handlers\n"
        "h = logging.handlers.RotatingFileHandler('log.csv', maxBytes=20, backupCount=2)\n"
        "for n in range(9): h.emit(logging.makeLogRecord({'msg': 'line %d' % n}))"
    ),
    "cut off": "os.truncate('model.pt', 2); f = open('log.csv', 'r+'); f.truncate(1)",
    "its mode and time": "os.chmod('model.pt', 0o600); os.utime('log.csv')",
    "a run folder removed": "shutil.rmtree('runs')",
    "a run folder removed and made again": "shutil.rmtree('runs'); os.makedirs('runs/a'); open('runs/a/log', 'w')",
    "a run folder renamed": "os.rename('runs', 'runs-old'); open('runs-old/a/log', 'a').write('more')",
    "a run folder renamed, and made again": "os.rename('runs', 'old'); os.makedirs('runs/a'); open('runs/a/log', 'w')",
    "copied over": "shutil.copy('log.csv', 'model.pt')",
    "moved over": "Path('new').write_text('n'); shutil.move('new', 'model.pt')",
    "through a link": "open('latest', 'wb').write(b'new')",
    "a link set anew": "os.remove('latest'); os.symlink('log.csv', 'latest')",
    "through a second name": "os.link('model.pt', 'second'); f = open('second', 'r+b'); f.write(b'zzz')",
    "by another folder's name": "os.chdir('runs'); open('../model.pt', 'wb').write(b'n')",
    "relative to an open folder": "d = os.open('runs', os.O_RDONLY); os.remove('a/log', dir_fd=d)",
    "by a process that was forked": "os.fork() or (open('model.pt', 'wb').write(b'n'), os._exit(0)); os.wait()",
    "by Python in another process": (
        "import subprocess; subprocess.run([sys.executable, '-c', \"open('model.pt', 'wb').write(b'n')\"], check=True)"
    ),
    "by a pool that is spawned": (
        "import multiprocessing, shutil\n"
        "if __name__ == '__main__':\n"
        "    p = multiprocessing.get_context('spawn').Process(target=shutil.copyfile, args=('log.csv', 'model.pt'))\n"
        "    p.start(); p.join(); assert p.exitcode == 0"
    ),
    "by a shell": "os.system('echo more >> log.csv')",
    "by a tool": "import subprocess; subprocess.run(['cp', 'log.csv', 'model.pt'], check=True)",
}


@pytest.mark.parametrize("code", CHANGES.values(), ids=CHANGES)
def test_what_existed_is_as_it_was(code, tuned):
    tuned.file("model.pt").chmod(0o640)
    tuned.file("log.csv", b"epoch,0\n" * 4)
    tuned.file("runs/a/log", b"an earlier run")
    os.symlink("model.pt", tuned.folder / "latest")
    before = tuned.state()
    outcome = tuned.run(code, clean=True)
    assert tuned.state() == before
    assert not outcome.not_put_back
    assert not outcome.by_others
    assert bool(outcome.put_back) == (not any(word in code for word in ("close()", "chmod"))), outcome


def test_a_process_that_is_killed_in_the_middle_of_a_write_leaves_the_earlier_file(tuned):
    tuned.file("model.pt", b"earlier" * 1000)
    before = tuned.state()
    code = "f = open('model.pt', 'wb'); f.write(b'half'); f.flush(); os.kill(os.getpid(), 9)"
    outcome = tuned.run(code, exit_code=-signal.SIGKILL)
    assert tuned.state() == before
    assert outcome.put_back == (str(tuned.folder / "model.pt"),)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_is_as_it_was_though_a_transaction_is_open(mode, tuned):
    path = tuned.folder / "results.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE runs (name TEXT)")
        database.execute("INSERT INTO runs VALUES ('earlier')")
    database.close()
    before = tuned.state()
    code = """
import sqlite3
d = sqlite3.connect("results.db"); d.execute(f"PRAGMA journal_mode={sys.argv[1]}")
d.execute("INSERT INTO runs VALUES ('new')"); d.commit()
d.execute("DELETE FROM runs")
os._exit(0)
"""
    outcome = tuned.run(code.replace("sys.argv[1]", repr(mode)))
    assert tuned.state() == before
    assert outcome.put_back == (str(path),)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT * FROM runs").fetchall() == [("earlier",)]


def test_a_large_database_is_copied_only_when_it_is_written(tuned):
    path = tuned.folder / "rows.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE rows (value INT)")
    database.close()
    before = tuned.state()
    code = """
import sqlite3
from plumb.journal import hook
hook.LARGE_BYTES = 1000
def copied():
    folder = os.path.join(os.environ["PLUMB_JOURNAL"], "copies")
    return [name for name in os.listdir(folder) if not name.startswith("listed")]
d = sqlite3.connect("rows.db")
assert d.execute("SELECT count(*) FROM rows").fetchone() == (0,)
assert not copied()
d.execute("INSERT INTO rows VALUES (1)")
assert copied()
d.commit()
"""
    outcome = tuned.run(code)
    assert tuned.state() == before
    assert outcome.put_back == (str(path),)


FROM_C = {
    "torch": (
        "import torch",
        "torch.save(torch.ones(3), 'data'); torch.save({'a': 1}, Path('data.png'))\n"
        "torch.jit.save(torch.jit.trace(torch.relu, torch.ones(1)), 'data.raw')",
    ),
    "numpy": ("import numpy", "numpy.save(open('data', 'wb'), numpy.ones(3)); numpy.ones(9).tofile('data')"),
    "numpy.memmap": ("import numpy", "numpy.memmap('data', 'uint8', 'r+')[:] = 7"),
    "Pillow": ("import PIL.Image", "PIL.Image.new('L', (3, 3)).save('data', 'png')"),
    "h5py": ("import h5py", "h5py.File('data.h5', 'a')['new'] = [1, 2]"),
    "h5py, made anew": ("import h5py", "h5py.File('data.h5', 'w')"),
    "OpenCV": ("import cv2, numpy", "assert cv2.imwrite('data.png', numpy.zeros((3, 3)))"),
    "dbm": ("import dbm.gnu", "d = dbm.gnu.open('data.gdbm', 'c'); d['new'] = 'x'; d.close()"),
    "safetensors": ("import safetensors.numpy, numpy", "safetensors.numpy.save_file({'a': numpy.ones(2)}, 'data')"),
    "pyarrow": ("import pyarrow.parquet as p, pyarrow", "p.write_table(pyarrow.table({'a': [1]}), 'data')"),
    "LMDB": ("import lmdb", "e = lmdb.open('lmdb'); t = e.begin(write=True); t.put(b'a', b'b'); t.commit()"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("imports", "code"), FROM_C.values(), ids=FROM_C)
def test_what_libraries_write_from_c_is_put_back(imports, code, tuned):
    for library in imports.removeprefix("import ").split(", "):
        pytest.importorskip(library if library.startswith("dbm.") else library.split()[0].split(".")[0])
    for name in ("data", "data.png", "data.raw"):
        tuned.file(name, bytes(range(200)))
    subprocess.run([sys.executable, "-c", PREPARE], cwd=tuned.folder, check=True)
    before = tuned.state()
    # Not by the comparison of folders, which finds such changes, too, but not who made them.
    outcome = tuned.run(f"{imports}\n{code}", clean=True)
    assert tuned.state() == before
    assert outcome.put_back
    assert not outcome.by_others


PREPARE = """
try:
    import dbm.gnu
    with dbm.gnu.open("data.gdbm", "n") as database:
        database["old"] = "value"
except ImportError:
    pass
try:
    import h5py
    with h5py.File("data.h5", "w") as file:
        file["old"] = [1, 2, 3]
    import lmdb
    environment = lmdb.open("lmdb")
    with environment.begin(write=True) as transaction:
        transaction.put(b"old", b"value")
    environment.close()
except ImportError:
    pass
"""


def test_what_is_only_read_is_neither_copied_nor_named(tuned):
    tuned.file("data.txt")
    with sqlite3.connect(tuned.folder / "rows.db") as database:
        database.execute("CREATE TABLE rows (value INT)")
    database.close()
    before = tuned.state()
    code = """
import sqlite3
open("data.txt").read(); os.open("data.txt", os.O_RDONLY); os.listdir(); shutil.copy("data.txt", os.devnull)
sqlite3.connect("file:rows.db?mode=ro", uri=True).execute("SELECT * FROM rows").fetchall()
folder = os.path.join(os.environ["PLUMB_JOURNAL"], "copies")
assert all(name.startswith("listed") for name in os.listdir(folder)), os.listdir(folder)
"""
    outcome = tuned.run(code)
    assert outcome == FilesOutcome()
    assert tuned.state() == before


def test_another_process_s_work_is_never_undone(tuned):
    tuned.file("theirs.csv", b"1\n")
    tuned.file("settings.py", b"a = 1")
    tuned.file("same.json", b"{}")
    keeper = Keeper((tuned.folder,), (), str(tuned.folder.parent / "scratch"))
    (tuned.folder / "theirs.csv").write_bytes(b"1\n2\n")
    (tuned.folder / "settings.py").write_bytes(b"a = 2")
    (tuned.folder / "appeared.csv").write_bytes(b"9")
    (tuned.folder / "same.json").write_bytes(b"{}")
    after = tuned.state()
    outcome = keeper.put_back(clean=True)
    assert tuned.state() == after
    assert not outcome.put_back
    assert not outcome.cleaned
    said = {Path(file.path).name: file.why for file in outcome.by_others}
    assert sorted(said) == ["appeared.csv", "settings.py", "theirs.csv"]
    kept = Path(said["theirs.csv"].rpartition(" in ")[2].rstrip(")"))
    assert Path(f"{kept}{tuned.folder}/theirs.csv").read_bytes() == b"1\n"
    lines = outcome.sentences(tuned.folder, 3)
    assert lines[0] == "Left alone: appeared.csv appeared during the tuning, perhaps by another process."


def test_a_program_that_is_seen_to_write_a_file_counts_as_the_script_s(tuned):
    tuned.file("results.csv", b"1\n")
    before = tuned.state()
    keeper = Keeper((tuned.folder,), (), str(tuned.folder.parent / "scratch"))
    # Neither the hook nor the program's words tell what it writes: the file is its standard output.
    code = "import subprocess, os; subprocess.run(['sh', '-c', 'echo 2; sleep 600'], stdout=int(os.environ['OUT']))"
    with open(tuned.folder / "results.csv", "r+b") as file:
        environment = {**keeper.environment(os.environ), "OUT": str(file.fileno())}
        script = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tuned.folder, env=environment, pass_fds=(file.fileno(),), start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + 30
    while tuned.state() == before and time.monotonic() < end:
        time.sleep(0.05)
    keeper.look_at(script.pid)
    os.killpg(script.pid, signal.SIGKILL)
    script.wait()
    outcome = keeper.put_back(clean=False)
    assert tuned.state() == before
    assert [Path(path).name for path in outcome.put_back] == ["results.csv"]
    assert not outcome.by_others


def test_what_is_new_is_listed_and_removed_only_on_demand(tuned):
    tuned.file("notes.txt")
    before = tuned.state()
    code = "os.makedirs('runs/1/a'); open('runs/1/a/x', 'w'); open('log', 'w'); os.symlink('log', 'last')"
    outcome = tuned.run(code)
    assert [Path(path).name for path in outcome.new] == ["last", "log", "runs"]
    assert outcome.new[-1].endswith("runs/")
    assert (tuned.folder / "runs/1/a/x").exists()
    for name in ("last", "log", "runs/1/a/x"):
        (tuned.folder / name).unlink()
    shutil_tree(tuned.folder / "runs")
    outcome = tuned.run(code, clean=True)
    assert tuned.state() == before
    assert not outcome.new
    assert len(outcome.cleaned) == 3


def shutil_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    folder.rmdir()


def test_a_file_that_cannot_be_copied_is_said_not_to_be_as_it_was(tuned, monkeypatch):
    tuned.file("huge.bin", b"h" * 5000)
    tuned.file("touched.bin", b"t" * 5000)
    code = """
from plumb.journal import copying
copying.LARGEST_BYTES = 1000
copying._reflinked = lambda path, target: False
f = open("huge.bin", "r+b"); f.write(b"x"); f.close()
open("touched.bin", "r+b").close()
"""
    outcome = tuned.run(code)
    [file] = outcome.not_put_back
    assert Path(file.path).name == "huge.bin"
    assert file.why.startswith("larger than the ")


def test_large_files_are_moved_aside_or_only_measured(tuned):
    model, log = tuned.file("model.pt", b"m" * 5000), tuned.file("train.log", b"l" * 5000)
    before = tuned.state()
    code = """
from plumb.journal import change_recorder
change_recorder.LARGE_BYTES = 1000
open("model.pt", "wb").write(b"new")
open("train.log", "a").write("more"); open("train.log", "a").write("more")
"""
    inodes = model.stat().st_ino, log.stat().st_ino
    outcome = tuned.run(code)
    assert tuned.state() == before
    assert len(outcome.put_back) == 2
    assert (model.stat().st_ino, log.stat().st_ino) == inodes, "nothing was copied"


def test_large_files_on_another_file_system_stay_on_it(tuned):
    other = Path(tempfile.mkdtemp(dir="/dev/shm"))
    if other.stat().st_dev == tuned.folder.stat().st_dev:
        pytest.skip("no second file system")
    try:
        for name in ("run/model.pt", "run/best.pt", "run/small.txt"):
            tuned.file(str(other / name), name.encode() * (1 if "small" in name else 1000))
        inodes = {path.name: path.stat().st_ino for path in (other / "run").iterdir()}
        code = f"""
from plumb.journal import change_recorder, copying
change_recorder.LARGE_BYTES = copying.LARGEST_BYTES = 1000
open("{other}/run/model.pt", "wb").write(b"new")
shutil.rmtree("{other}/run")
"""
        outcome = tuned.run(code)
        assert not outcome.not_put_back
        found = {path.name: path.stat() for path in (other / "run").iterdir()}
        assert sorted(found) == ["best.pt", "model.pt", "small.txt"]
        assert {status.st_mtime_ns for status in found.values()} == {OLD}
        assert all(found[name].st_ino == inodes[name] for name in ("model.pt", "best.pt")), "nothing was copied"
        assert not list(Path("/dev/shm").glob(".plumb-*"))
    finally:
        shutil.rmtree(other)


def test_putting_back_goes_on_where_it_was_interrupted(tuned, monkeypatch):
    from plumb.journal import putting_back

    for name in "abc":
        tuned.file(name)
    before = tuned.state()
    keeper = Keeper((tuned.folder,), (), str(tuned.folder.parent / "scratch"))
    code = "[open(name, 'w').write('new') for name in 'abc']"
    subprocess.run([sys.executable, "-c", code], cwd=tuned.folder, env=keeper.environment(os.environ), check=True)
    undo, calls = putting_back._PuttingBack._undo, []

    def interrupted(self, record):
        calls.append(record)
        if len(calls) == 2:
            raise KeyboardInterrupt
        undo(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(putting_back._PuttingBack, "_undo", interrupted)
        with pytest.raises(KeyboardInterrupt):
            keeper.put_back(clean=False)
    assert tuned.state() != before
    keeper.put_back(clean=False)
    assert tuned.state() == before


def test_no_script_is_run_where_its_files_can_not_be_kept(monkeypatch, tmp_path):
    from plumb.core.errors import CommandError
    from plumb.script import launcher as script
    from plumb.tuning.child_orders import Orders, Target, TuneOrders

    def full(*arguments):
        raise OSError(28, "No space left on device", "/home/cache")

    monkeypatch.setattr(script, "Keeper", full)
    (tmp_path / "train.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match=r"/home/cache: no space left on device\); make room"):
        script.run_tuned(Orders(Target("train.py", False), tune=TuneOrders(1.0)), [], print, print)
    assert not (tmp_path / "ran").exists()


def test_the_watcher_does_what_an_interrupted_keeper_has_not_done(tuned):
    tuned.file("model.pt")
    before = tuned.state()
    code = "import time; open('model.pt', 'w').write('new'); print('ready', flush=True); time.sleep(600)"
    with Keeper((tuned.folder,), (), str(tuned.folder.parent / "scratch")) as keeper:
        script = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tuned.folder, env=keeper.environment(os.environ), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert script.stdout.readline() == "ready\n"
    assert script.wait(10) == -signal.SIGKILL
    script.stdout.close()
    assert tuned.state() == before
    assert not Path(keeper.folder).exists()
