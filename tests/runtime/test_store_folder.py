"""The folders of stores: private, and removed when nobody uses them."""

import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from store_parts import assert_off, facts, records, run_code

from plumb.core.errors import StoreError
from plumb.host import user_folder
from plumb.runtime.store import store_folder
from plumb.runtime.store.store import Store
from plumb.runtime.store.store_folder import StoreUse


def test_a_missing_folder(spec):
    shutil.rmtree(spec.folder)
    assert_off(spec, "no such file or directory")


@pytest.mark.parametrize("which", ["the store", "the folder around it"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda folder: os.chown(folder, 12345, -1), "belongs to another user"),
        (lambda folder: folder.chmod(0o770), "may be written to by others"),
        (lambda folder: folder.chmod(0o707), "may be written to by others"),
        (lambda folder: folder.symlink_to(folder.rename(folder.parent / "elsewhere")), "is not a folder"),
        (lambda folder: folder.write_text(str(folder.rename(folder.parent / "elsewhere"))), "is not a folder"),
    ],
)
def test_no_pickle_is_read_from_where_others_could_have_put_it(how, reason, which, spec):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    Store(spec).put_many(records(range(3)))
    folder = Path(spec.folder)
    how(folder if which == "the store" else folder.parent)
    assert_off(spec, reason)
    with pytest.raises(StoreError):
        StoreUse(folder, facts())


def test_folders_are_private(spec):
    Store(spec).put_many(records(range(3)))
    for path in (Path(spec.folder), Path(spec.folder).parent, *Path(spec.folder).rglob("*")):
        assert path.stat().st_mode & 0o077 == 0 or path.name == "store.json"


def test_a_store_in_memory_goes_with_its_last_user(tmp_path, monkeypatch):
    monkeypatch.setattr(user_folder, "SHARED_MEMORY", tmp_path)
    folder = user_folder.memory_root() / "fingerprint"
    first = StoreUse(folder, facts("memory"))
    second = StoreUse(folder, facts("memory"))
    assert store_folder.users_of(folder) == (os.getpid(),)
    first.release()
    assert folder.exists()
    second.release()
    assert not folder.parent.exists()


KEEP = """
from plumb.runtime.store.store_folder import StoreUse
user_folder.SHARED_MEMORY = Path(sys.argv[1])
use = StoreUse(user_folder.memory_root() / sys.argv[2], facts("memory"))
print("ready", flush=True)
"""


def test_a_store_in_memory_goes_with_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(user_folder, "SHARED_MEMORY", tmp_path)
    ended = run_code(KEEP, tmp_path, "ended")
    assert ended.communicate()[0] == "ready\n"
    assert not user_folder.memory_root().exists()
    killed = run_code(KEEP + "input()", tmp_path, "killed", stdin=subprocess.PIPE)
    assert killed.stdout.readline() == "ready\n"
    folder = user_folder.memory_root() / "killed"
    assert store_folder.users_of(folder) == (killed.pid,)
    killed.kill()
    killed.communicate()
    assert folder.exists()
    assert store_folder.users_of(folder) == ()
    StoreUse(user_folder.memory_root() / "next", facts("memory")).release()
    assert not folder.exists()


def test_a_child_does_not_end_its_parent_s_use(tmp_path, monkeypatch):
    monkeypatch.setattr(user_folder, "SHARED_MEMORY", tmp_path)
    folder = user_folder.memory_root() / "fingerprint"
    use = StoreUse(folder, facts("memory"))
    job = multiprocessing.get_context("fork").Process(target=use.release)
    job.start()
    job.join()
    assert store_folder.users_of(folder) == (os.getpid(),)
    use.release()
