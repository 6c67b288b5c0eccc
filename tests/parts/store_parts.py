"""What the tests of the store share: values, stores to put them into, and processes that do so."""

import subprocess
import sys
from pathlib import Path

from plumb.host import user_folder  # noqa: F401 - for the code that is run
from plumb.runtime.store import store_folder
from plumb.runtime.store.codec import encode
from plumb.runtime.store.store import MISSING, Store, StoreSpec, key_of
from plumb.runtime.store.store_folder import StoreFacts

MIB = 2**20
HERE = str(Path(__file__).parent)


def value_of(index):
    """A value that only its index can give, of some pages."""
    return index, bytes([index % 251]) * (2000 + index % 7 * 3000)


def records(indices):
    return [(key_of(index), encode(value_of(index)), ()) for index in indices]


def facts(tier="disk", budget=64 * MIB):
    return StoreFacts("Images", "load", tier, budget)


def spec_in(cache_dir, budget=64 * MIB, tier="disk"):
    folder = store_folder.disk_root(cache_dir) / "fingerprint"
    return StoreSpec(str(folder), budget, tier, "fingerprint")


def assert_usable(store, indices):
    """The store takes values and gives each of its values as it was."""
    store.put_many(records(indices))
    found = store.get_many([key_of(index) for index in indices])
    assert store.reason is None
    assert found == [value_of(index) for index in indices]


def fill(spec, start, count):
    store = Store(spec)
    for first in range(start, start + count, 16):
        store.put_many(records(range(first, first + 16)))


def assert_off(spec, reason):
    store = Store(spec)
    store.put_many(records(range(3)))
    assert store.get(key_of(1)) is MISSING
    assert (store.count, store.used_bytes, store.is_off, store.is_open) == (0, 0, True, False)
    assert store.reason.startswith("the sample store in ")
    assert reason in store.reason
    assert "\n" not in store.reason


def run_code(code, *words, **options):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {HERE!r})\nfrom store_parts import *\n{code}"]
    return subprocess.Popen([*command, *map(str, words)], stdout=subprocess.PIPE, text=True, **options)
