"""What the tests of the runtime share."""

from pathlib import Path

import pytest
from store_parts import facts, spec_in

from plumb.runtime.store.store_folder import StoreUse


@pytest.fixture
def own_cache_home(tmp_path, monkeypatch):
    """Keeps the list of cache folders out of the user's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture
def spec(tmp_path, own_cache_home):
    """A store on a disk, in use by this process."""
    spec = spec_in(tmp_path)
    use = StoreUse(Path(spec.folder), facts())
    yield spec
    use.release()
