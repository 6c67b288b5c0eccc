"""`plumb cache`: what is stored on this host, and its removal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumb.host import user_folder
from plumb.runtime.store import store_folder
from plumb.runtime.store.codec import encode
from plumb.runtime.store.store import Store, StoreSpec, key_of
from plumb.runtime.store.store_folder import StoreFacts, StoreUse


@pytest.fixture(autouse=True)
def own_cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def stored(cache_dir, name, samples):
    """A store on a disk with some samples, and its use."""
    folder = store_folder.disk_root(cache_dir) / name
    use = StoreUse(folder, StoreFacts(f"Dataset{name}", "load", "disk", 2**24))
    store = Store(StoreSpec(str(folder), 2**24, "disk", name))
    store.put_many([(key_of(index), encode(index), ()) for index in range(samples)])
    store.close()
    return folder, use


def test_list_and_clear(plumb, tmp_path):
    kept, keeping = stored(tmp_path / "one", "a", 3)
    unused, use = stored(tmp_path / "two", "b", 1234)
    use.release()
    ran = plumb("cache", "list")
    assert ran.code == 0, ran.err
    lines = {line.split(";")[0]: line for line in ran.out.splitlines()}
    assert f"samples: 3; size: 12 KiB of 16 MiB; tier: disk; used by: {os.getpid()};" in lines["dataset: Dataseta"]
    assert str(kept) in lines["dataset: Dataseta"]
    assert "cut: load; samples: 1,234;" in lines["dataset: Datasetb"]
    assert "used by: nobody; last use: " in lines["dataset: Datasetb"]

    cleared = plumb("cache", "clear")
    assert cleared.code == 0, cleared.err
    assert "Removed 1 store" in cleared.out
    assert f"Left {kept}: it is in use by {os.getpid()}." in cleared.out
    assert (kept.exists(), unused.parent.exists()) == (True, False)
    keeping.release()


def test_clear_one_folder(plumb, tmp_path):
    one, use_one = stored(tmp_path / "one", "a", 3)
    two, use_two = stored(tmp_path / "two", "b", 3)
    use_one.release()
    use_two.release()
    assert "Removed 1 store" in plumb("cache", "clear", "one").out
    assert (one.exists(), two.exists()) == (False, True)
    assert "There was none to remove." in plumb("cache", "clear", "one").out
    assert (tmp_path / "one").exists()


def test_a_store_of_a_killed_process_can_be_cleared(plumb, tmp_path):
    code = f"""
import os
from pathlib import Path
from plumb.runtime.store.store_folder import *
use = StoreUse(disk_root(Path({str(tmp_path)!r})) / "a", StoreFacts("D", "load", "disk", 1))
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert "used by: nobody" in plumb("cache", "list").out
    assert "Removed 1 store" in plumb("cache", "clear").out


def test_damaged_stores_are_listed_and_cleared(plumb, tmp_path):
    folder, use = stored(tmp_path, "a", 3)
    use.release()
    (folder / "data.mdb").write_bytes(b"garbage")
    (folder / "store.json").write_text("{")
    ran = plumb("cache", "list")
    assert "dataset: unknown; cut: unknown; samples: damaged" in ran.out, ran.err
    assert "Removed 1 store" in plumb("cache", "clear").out
    assert not folder.exists()


def test_stores_in_memory(plumb):
    use = StoreUse(user_folder.memory_root() / "test-cache-command", StoreFacts("D", "load", "memory", 2**20))
    assert "dataset: D; cut: load; samples: 0; size: 0 B of 1 MiB; tier: memory" in plumb("cache", "list").out
    use.release()
    assert "test-cache-command" not in plumb("cache", "list").out


@pytest.mark.slow
@pytest.mark.quiet  # others keep stores in memory for a while
def test_nothing_is_there(plumb):
    if user_folder.memory_root().exists():
        pytest.skip("another process has a store in memory")
    assert plumb("cache", "list").out == "There are no sample stores.\n"
    assert plumb("cache", "clear").out == "There was none to remove.\n"
    assert plumb("cache", "clear", "no-such-folder").code == 2


def test_a_folder_that_can_not_be_trusted(plumb, tmp_path):
    folder, use = stored(tmp_path, "a", 3)
    use.release()
    folder.parent.chmod(0o777)
    ran = plumb("cache", "clear", ".")
    assert ran.code == 1
    assert (
        ran.err
        == f"plumb: {Path(folder.parent)} may be written to by others: remove it, what it holds can't be trusted\n"
    )
    assert folder.exists()
