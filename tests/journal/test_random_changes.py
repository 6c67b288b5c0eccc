"""Whatever sequence of changes a script makes, failed ones among them, undoing the journal restores every path."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from plumb.journal import putting_back, records, snapshot
from plumb.journal.change_recorder import ChangeRecorder
from plumb.journal.hook import _Hook

OLD = 1_600_000_000_000_000_000
PATHS = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "f", "f/a", "l", "new", "new/a"]
paths = st.sampled_from(PATHS)
change = st.tuples(
    st.sampled_from(["write", "append", "edit", "touch", "chmod", "remove", "rmtree", "mkdir", "truncate"]), paths
) | st.tuples(st.sampled_from(["rename", "rename", "link", "symlink", "copy"]), paths, paths)
changes = st.lists(change, max_size=12)


def make(folder: Path) -> None:
    for name in ("d/e", "f"):
        (folder / name).mkdir(parents=True)
    for name in ("a", "b", "d/a", "d/e/a", "f/a"):
        (folder / name).write_text(f"the user's {name}")
    (folder / "l").symlink_to("b")
    for path in folder.rglob("*"):
        os.utime(path, ns=(OLD, OLD), follow_symlinks=False)


def state(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        name, mode = str(path.relative_to(folder)), stat.S_IMODE(status.st_mode)
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = mode
        else:
            found[name] = (path.read_text(), mode, status.st_mtime_ns)
    return found


class Script:
    """Makes changes as Python does: an audit event first, and then what may fail."""

    def __init__(self, folder: Path, hook: _Hook) -> None:
        self._folder = folder
        self._hook = hook
        self._count = 0

    def change(self, kind: str, *names: str) -> None:
        self._count += 1
        try:
            getattr(self, kind)(*(str(self._folder / name) for name in names))
        except OSError:
            pass

    def _open(self, path: str, flags: int) -> None:
        self._hook("open", (path, None, flags))
        with open(os.open(path, flags), "r+b" if flags & os.O_RDWR else "wb", closefd=True) as file:
            file.write(b"%d" % self._count)

    def write(self, path: str) -> None:
        self._open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def append(self, path: str) -> None:
        self._open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def edit(self, path: str) -> None:
        self._open(path, os.O_RDWR)

    def touch(self, path: str) -> None:
        self._hook("os.utime", (path, None, None, -1))
        os.utime(path)

    def chmod(self, path: str) -> None:
        self._hook("os.chmod", (path, 0o700, -1))
        os.chmod(path, 0o700)

    def truncate(self, path: str) -> None:
        self._hook("os.truncate", (path, 1))
        os.truncate(path, 1)

    def remove(self, path: str) -> None:
        self._hook("os.remove", (path, -1))
        os.remove(path)

    def mkdir(self, path: str) -> None:
        self._hook("os.mkdir", (path, 0o777, -1))
        os.mkdir(path)

    def rmtree(self, path: str) -> None:
        for parent, folders, files in os.walk(path, topdown=False):
            for name in [*files, *(each for each in folders if os.path.islink(os.path.join(parent, each)))]:
                self.remove(os.path.join(parent, name))
            self._hook("os.rmdir", (parent, -1))
            os.rmdir(parent)

    def rename(self, source: str, target: str) -> None:
        self._hook("os.rename", (source, target, -1, -1))
        os.replace(source, target)

    def link(self, source: str, target: str) -> None:
        self._hook("os.link", (source, target, -1, -1))
        os.link(source, target)

    def symlink(self, source: str, target: str) -> None:
        self._hook("os.symlink", (source, target, -1))
        os.symlink(source, target)

    def copy(self, source: str, target: str) -> None:
        content = Path(source).read_bytes()
        self._open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        Path(target).write_bytes(content)


@settings(max_examples=100)
@given(changes)
def test_undoing_restores_every_path(made):
    with tempfile.TemporaryDirectory() as temporary:
        journal, folder = Path(temporary, "journal"), Path(temporary, "project")
        for path in (journal, journal / records.COPIES, folder):
            path.mkdir()
        (journal / records.SETTINGS).write_text(json.dumps({"ignored": []}))
        make(folder)
        before = state(folder)
        script = Script(folder, _Hook(ChangeRecorder(str(journal))))
        for change in made:
            script.change(*change)
        changed = state(folder)
        outcome = putting_back.put_back(str(journal), clean=True)
        assert state(folder) == before, (made, changed, outcome)
        assert not outcome.not_put_back
        again = putting_back.put_back(str(journal), clean=True)
        assert state(folder) == before
        assert not again.not_put_back
        shutil.rmtree(folder)


class OfUsersFiles(Script):
    """The same without second names that can't be made: if one is tried, the journal has only a second name itself."""

    def link(self, source: str, target: str) -> None:
        if not os.path.lexists(target):
            super().link(source, target)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), change), max_size=10))
def test_undoing_restores_every_path_though_a_program_makes_some_changes(made):
    with tempfile.TemporaryDirectory() as temporary:
        journal, folder = Path(temporary, "journal"), Path(temporary, "project")
        for path in (journal, journal / records.COPIES, folder):
            path.mkdir()
        make(folder)
        before = state(folder)
        snapshot.take([str(folder)], str(journal), ())
        recorder = ChangeRecorder(str(journal))
        recorder.note_program([], stays=True)
        script, program = OfUsersFiles(folder, _Hook(recorder)), OfUsersFiles(folder, lambda *event: None)
        for is_seen, names in made:
            (script if is_seen else program).change(*names)
        changed = state(folder)
        outcome = putting_back.put_back(str(journal), clean=True)
        assert state(folder) == before, (made, changed, outcome)
        shutil.rmtree(folder)
