"""What a script's own exit would remove of temporary files is removed, and nothing that it would keep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumb.journal.keeping import Keeper

ENDED = """
import atexit, os, shutil, sys, tempfile, weakref
from functools import partial
from pathlib import Path
{code}
from plumb.journal import hook, temporary_folders
temporary_folders.note_exit(hook._recorder)
os._exit(0)
"""

GOES = {
    "a context": "t = tempfile.TemporaryDirectory(); open(t.name + '/x', 'w'); t.__enter__()",
    "a subclass": "class T(tempfile.TemporaryDirectory): pass\nt = T()",
    "a file": "f = tempfile.NamedTemporaryFile()",
    "atexit with rmtree": "t = tempfile.mkdtemp(); atexit.register(shutil.rmtree, t, ignore_errors=True)",
    "atexit with a partial": "t = tempfile.mkdtemp(); atexit.register(partial(shutil.rmtree, t))",
    "atexit with os.remove": "f, name = tempfile.mkstemp(); atexit.register(os.remove, name)",
    "atexit with a path's method": "f, name = tempfile.mkstemp(); atexit.register(Path(name).unlink)",
    "atexit with a global": "t = tempfile.mkdtemp()\ndef clean(): shutil.rmtree(t)\natexit.register(clean)",
    "atexit before the folder": "def clean(): shutil.rmtree(t)\natexit.register(clean)\nt = tempfile.mkdtemp()",
    "atexit with a closure": (
        "def f():\n    t = tempfile.mkdtemp()\n    atexit.register(lambda: shutil.rmtree(t))\nf()"
    ),
    "atexit with a method": (
        "class Run:\n    def __init__(self): self.folder = Path(tempfile.mkdtemp()); atexit.register(self.close)\n"
        "    def close(self): shutil.rmtree(self.folder)\nrun = Run()"
    ),
    "a finalizer": "class R: pass\nr = R(); weakref.finalize(r, shutil.rmtree, tempfile.mkdtemp())",
}
STAYS = {
    "nobody removes it": "t = tempfile.mkdtemp()",
    "a file to be kept": "f = tempfile.NamedTemporaryFile(delete=False)",
    "detached": "t = tempfile.TemporaryDirectory(); t._finalizer.detach()",
    "a handler that saves": "t = tempfile.mkdtemp()\ndef save(): print(t)\natexit.register(save)",
    "a handler for another": "t = tempfile.mkdtemp(); atexit.register(shutil.rmtree, '/nonexistent')",
}


def left_after(code: str, folder: Path, clean: bool) -> tuple[list[str], tuple[str, ...]]:
    """What is in the script's temporary folder after a tuning, and what is said to be new."""
    temporary = folder / "temporary"
    temporary.mkdir()
    keeper = Keeper((folder,), (), str(folder / "scratch"))
    environment = {**keeper.environment(os.environ), "TMPDIR": str(temporary)}
    ran = ENDED.format(code=code)
    subprocess.run([sys.executable, "-c", ran], env=environment, cwd=folder, check=True, timeout=60)
    outcome = keeper.put_back(clean)
    return sorted(path.name for path in temporary.iterdir()), outcome.new


@pytest.mark.parametrize("code", GOES.values(), ids=GOES)
def test_what_the_script_s_exit_removes_goes(code, tmp_path):
    assert left_after(code, tmp_path, clean=False) == ([], ())


@pytest.mark.parametrize("code", STAYS.values(), ids=STAYS)
def test_what_plain_python_leaves_is_listed_as_new(code, tmp_path):
    left, new = left_after(code, tmp_path, clean=False)
    assert [Path(path).name for path in new] == left
    assert len(left) == 1


def test_what_plain_python_leaves_goes_on_demand(tmp_path):
    assert left_after(STAYS["nobody removes it"], tmp_path, clean=True) == ([], ())


def test_folders_that_are_not_temporary_are_never_removed_for_a_handler(tmp_path):
    code = f"os.mkdir({str(tmp_path / 'mine')!r}); atexit.register(shutil.rmtree, {str(tmp_path / 'mine')!r})"
    left_after(code, tmp_path, clean=False)
    assert (tmp_path / "mine").is_dir()
