"""What stores and deferred operators save is measured on the user's own samples."""

import contextlib
import itertools
import time

import pytest
import torch
from cut_datasets import Inline
from cutting import found
from torch.utils.data import DataLoader, default_collate

from plumb.rewrites.batch_maker import NotDeferredError
from plumb.rewrites.find_deferrals import find_deferral
from plumb.rewrites.savings import fill_store, measure_savings
from plumb.runtime.fetch import Fetch
from plumb.runtime.store.store import Store


class Scaled(torch.utils.data.Dataset):
    """Bytes that become numbers at the end, four times as large."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        pixels = torch.full((3, 64, 64), index % 256, dtype=torch.uint8)
        return pixels.to(torch.float32).div(255.0), index


def test_a_store_saves_what_comes_before_it_and_costs_what_it_reads():
    dataset = Inline()
    cut = found(dataset)[0]["np.clip"].cut
    store = fill_store(dataset, cut, range(6))
    assert store.value_bytes >= 20_000 * 8
    assert store.write_seconds > 0
    hits = Fetch(cut=cut, spec=store.stored.spec, is_frozen=True)
    saved = measure_savings(DataLoader(dataset), {"hits": hits}, [list(range(6))])["hits"]
    assert 0 < saved.left.plainly < 1  # the sort alone takes longer than to read it
    assert 0 < saved.left.reusing < 1
    assert saved.main_seconds == saved.main_seconds_reusing == 0


def test_to_open_a_store_is_no_part_of_writing_a_sample(monkeypatch):
    class Opened(Store):
        def put_many(self, records):
            if not self.is_open:
                time.sleep(0.5)
            super().put_many(records)

    monkeypatch.setattr("plumb.rewrites.savings.Store", Opened)
    dataset = Inline()
    assert fill_store(dataset, found(dataset)[0]["np.clip"].cut, range(3)).write_seconds < 0.1


def test_deferring_is_measured_on_whole_batches():
    loader = DataLoader(Scaled(), batch_size=32)
    deferral = find_deferral(loader.dataset, loader.collate_fn, list(range(8))).deferral
    saved = measure_savings(loader, {"later": Fetch(deferral=deferral)}, [list(range(32))])["later"]
    assert saved.main_seconds > 0
    assert saved.main_seconds_reusing > 0
    assert saved.left.plainly > 0
    assert saved.left.reusing > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_without_workers_a_batch_is_made_on_torch_s_threads_and_finished(threads):
    made_on = set()

    def collate(samples):
        made_on.add(torch.get_num_threads())
        return default_collate(samples)

    loader = DataLoader(Scaled(), batch_size=32, collate_fn=collate)
    deferral = find_deferral(loader.dataset, loader.collate_fn, list(range(8))).deferral
    made_on.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        saved = measure_savings(loader, {"later": Fetch(deferral=deferral)}, [list(range(32))])["later"]
    finally:
        torch.set_num_threads(before)
    assert made_on == {1, threads}
    assert saved.left.alone is not None


def test_without_room_in_shared_memory_nothing_is_put_there(monkeypatch):
    class Full:
        f_bavail, f_blocks, f_frsize = 1, 100, 4096

    monkeypatch.setattr("os.statvfs", lambda _: Full)
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", None)
    saved = measure_savings(DataLoader(Scaled()), {"plainly": Fetch()}, [list(range(8))])["plainly"]
    assert saved.left.plainly > 0


def test_what_is_not_deferred_after_all_saves_nothing():
    loader = DataLoader(Scaled(), batch_size=32)
    deferral = find_deferral(loader.dataset, loader.collate_fn, list(range(8))).deferral
    other = DataLoader(
        loader.dataset, batch_size=32, collate_fn=lambda samples: torch.stack([s for s, _ in samples]) + 1
    )
    ways = {"later": Fetch(deferral=deferral), "plainly": Fetch()}
    saved = measure_savings(other, ways, [list(range(32))])
    assert list(saved) == list(ways)
    assert isinstance(saved["later"], NotDeferredError)
    assert saved["plainly"].left.plainly > 0, "the others are timed all the same"


def test_what_is_not_deferred_in_a_later_batch_leaves_the_others_timed():
    class Varied(Scaled):
        def __getitem__(self, index):
            pixels, label = super().__getitem__(index)
            return (pixels if index < 32 else pixels[0]), label

    loader = DataLoader(Varied(), batch_size=32)
    deferral = find_deferral(loader.dataset, loader.collate_fn, list(range(8))).deferral
    ways = {"later": Fetch(deferral=deferral), "plainly": Fetch()}
    saved = measure_savings(loader, ways, [list(range(32)), list(range(32, 64))])
    assert list(saved) == list(ways)
    assert isinstance(saved["later"], NotDeferredError)
    assert saved["plainly"].left.plainly > 0


def test_what_the_dataset_itself_raises_is_raised():
    class Broken(Scaled):
        def __getitem__(self, index):
            if index == 40:
                raise ValueError("sample 40 is broken")
            return super().__getitem__(index)

    with pytest.raises(ValueError, match="sample 40"):
        measure_savings(
            DataLoader(Broken(), batch_size=32), {"plainly": Fetch()}, [list(range(32)), list(range(32, 64))]
        )


@pytest.mark.parametrize("is_calm", [True, False])
def test_where_memory_is_fresh_by_chance_what_is_left_in_used_memory_counts(is_calm, monkeypatch):
    reused, batches = [False], itertools.count()

    @contextlib.contextmanager
    def reusing(wanted):
        reused[0] = wanted
        yield
        reused[0] = False

    def collate(samples):
        by_chance = 1 if is_calm or reused[0] else 2 ** (next(batches) % 5)
        until = time.thread_time() + 0.021 * by_chance
        while time.thread_time() < until:
            pass
        return torch.stack([sample for sample, _ in samples])

    monkeypatch.setattr("plumb.rewrites.savings.malloc_reuse", reusing)
    saved = measure_savings(DataLoader(Scaled(), collate_fn=collate), {"plainly": Fetch()}, [list(range(8))])["plainly"]
    assert (saved.left.plainly == saved.left.reusing) is not is_calm
    assert saved.left.reusing == pytest.approx(1.0, abs=0.3)
