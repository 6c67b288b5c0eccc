"""A plan gives the samples that the script would have had, whatever the script or the samples change."""

import collections
import ctypes
import decimal
import functools
import json
import mmap
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, Dataset, RandomSampler, SequentialSampler, Subset

from plumb.core.config import CacheChoice, Config, Cut, Rewrites
from plumb.core.plan import LoaderResult, Measured, Prediction
from plumb.runtime.guards import state_guard
from plumb.runtime.loader import NO_REWRITES, current_config
from plumb.runtime.planned_loader import PlannedLoader
from plumb.runtime.replay.sample_code import code_of_samples

Compose = pytest.importorskip("torchvision.transforms").Compose

RATE = (90.0, 110.0)
WORKERS, LASTING = Config(2, 2), Config(2, 2, persistent_workers=True)
STORING = Config(cache=CacheChoice("sample", "memory", 2**24, 1.0))
LEVEL = {"now": 0}


def on_plan(loader, config=LASTING, rewrites=NO_REWRITES):
    """Returns what begins an epoch of `loader` on a plan's configuration, and the lines that are said."""
    own = current_config(loader)
    entry = LoaderResult(
        "loader",
        "train.py:1",
        type(loader.dataset).__name__,
        loader.batch_size,
        Measured(own, 100.0, RATE),
        Measured(config, 100.0, RATE),
        Prediction(100.0, "cpu", {}),
        rewrites=rewrites,
    )
    planned, said = PlannedLoader(loader, entry, own), []
    return lambda: planned.start_unseen(loader, lambda: iter(loader), said.append), said


def trained(make, train, config=LASTING, rewrites=NO_REWRITES):
    """Returns what a training yields plainly and on a plan, each with its own loader, and the lines that are said."""
    plain = list(train(loader := make(), lambda: iter(loader)))
    LEVEL["now"] = 0
    begin, said = on_plan(loader := make(), config, rewrites)
    return plain, list(train(loader, begin)), said


class Scale:
    factor = 0

    def __call__(self, x):
        return x + self.factor


class Collate:
    size = 0

    def __call__(self, samples):
        return torch.tensor(samples) + self.size


def adding(value):
    return lambda samples: torch.tensor(samples) + value


class Rows(Dataset):
    """Samples that depend on all sorts of things, all of them zero at first."""

    progress = 0

    def __init__(self, count=40):
        self.labels, self.weights = [0] * count, np.zeros(count)
        self.transform = Compose([Scale()])
        self.parts = collections.deque([{"level": 0}])
        self.numbers, self.mapped = (ctypes.c_int * 4)(), mmap.mmap(-1, 16, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.labels[index] + self.weights[index] + self.progress + self.parts[0]["level"]) + (
            LEVEL["now"] + self.numbers[1] + self.mapped[0]
        )


@pytest.fixture(autouse=True)
def level():
    LEVEL["now"] = 0


def rows_of(loader):
    dataset = loader.dataset
    while not isinstance(dataset, Rows):
        dataset = getattr(dataset, "dataset", None) or dataset.datasets[0]
    return dataset


CHANGES = {
    "items of a list": lambda loader, value: rows_of(loader).labels.__setitem__(slice(None), [value] * 40),
    "an array": lambda loader, value: rows_of(loader).weights.fill(value),
    "a transform in a Compose": lambda loader, value: setattr(rows_of(loader).transform.transforms[0], "factor", value),
    "another transform": lambda loader, value: setattr(rows_of(loader), "transform", lambda x: x + value),
    "an attribute": lambda loader, value: setattr(rows_of(loader), "progress", value),
    "a dictionary in a deque": lambda loader, value: rows_of(loader).parts[0].update(level=value),
    "a global": lambda loader, value: LEVEL.update(now=value),
    "collate_fn": lambda loader, value: setattr(loader.collate_fn, "size", value),
    "an array of ctypes": lambda loader, value: rows_of(loader).numbers.__setitem__(1, value),
    "a mapped buffer": lambda loader, value: rows_of(loader).mapped.__setitem__(slice(0, 1), bytes([value])),
}


def make():
    return DataLoader(Subset(ConcatDataset([Rows()]), range(40)), batch_size=4, collate_fn=Collate())


BETWEEN_EPOCHS = {
    **CHANGES,
    "another collate_fn": lambda loader, value: setattr(loader, "collate_fn", adding(value)),
}


@pytest.mark.parametrize("change", BETWEEN_EPOCHS.values(), ids=BETWEEN_EPOCHS)
def test_what_changes_between_epochs_is_seen(change):
    def train(loader, begin):
        for epoch in range(3):
            yield [batch.tolist() for batch in begin()]
            change(loader, epoch + 1)

    plain, planned, said = trained(make, train)
    assert planned == plain
    assert {value for batches in plain for batch in batches for value in batch} == {0, 1, 2}
    assert all("between epochs: workers are started again" in line for line in said)
    assert said


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_loop_changes_is_never_late(change):
    def train(loader, begin):
        step = 0
        for _ in range(2):
            for batch in begin():
                yield batch.tolist()
                step += 1
                change(loader, step)

    plain, planned, said = trained(make, train)
    assert planned == plain
    assert plain[3] == [3] * 4
    (line,) = said
    assert "while an epoch runs; from here on it runs as the script has it" in line


def test_a_change_far_into_an_epoch_is_found_when_a_look_is_due(monkeypatch):
    monkeypatch.setattr(state_guard, "_AT_LAST_SECONDS", 0.0)

    def train(loader, begin):
        for step, batch in enumerate(begin()):
            yield batch.tolist()
            if step >= 30:
                loader.dataset.progress = 1

    def make():
        return DataLoader(Rows(400), batch_size=4, collate_fn=Collate())

    plain, planned, said = trained(make, train, WORKERS)
    assert planned == plain
    assert len(said) == 1


QUICKLY = {name: CHANGES[name] for name in CHANGES if name not in ("items of a list", "a dictionary in a deque")}


@pytest.mark.parametrize("config", [WORKERS, STORING], ids=["workers", "a store in the main process"])
@pytest.mark.parametrize("change", QUICKLY.values(), ids=QUICKLY)
def test_a_change_far_into_an_epoch_is_not_late_though_no_look_is_due(change, config, monkeypatch):
    # As where a large dataset makes each look long.
    monkeypatch.setattr(state_guard, "_AT_LAST_SECONDS", 1e9)
    monkeypatch.setattr(state_guard, "_SHARE", 1e-9)

    def train(loader, begin):
        yield from (batch.tolist() for batch in begin())
        for step, batch in enumerate(begin()):
            yield batch.tolist()
            if step == 30:
                change(loader, 1)

    def make():
        return DataLoader(Subset(ConcatDataset([Rows(400)]), range(400)), batch_size=4, collate_fn=Collate())

    rewrites = Rewrites((Cut("sample", (), (), code_of_samples(make().dataset)),))
    plain, planned, said = trained(make, train, config, rewrites)
    assert planned == plain
    assert plain[130] != plain[131]
    assert len(said) == 1


def test_a_buffer_that_samples_read_can_be_closed_and_resized():
    loader = DataLoader(Rows(), batch_size=4)
    begin, _ = on_plan(loader, WORKERS)
    list(begin())
    loader.dataset.mapped.close()
    loader.dataset.mapped = mmap.mmap(-1, 16)
    assert len(list(begin())) == 10


class Replay(Dataset):
    """Hands out what the loop has put in, the newest more likely than not."""

    def __init__(self):
        self.buffer = collections.deque([(0, 0.0)] * 8, maxlen=64)

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return self.buffer[random.randrange(len(self.buffer))][0]


def test_a_buffer_that_the_loop_fills_is_read_as_it_is():
    def train(loader, begin):
        random.seed(0)
        for _ in range(2):
            for step, batch in enumerate(begin(), 1):
                yield batch.tolist()
                loader.dataset.buffer.extend([(step, 0.0)] * 8)

    plain, planned, said = trained(lambda: DataLoader(Replay(), batch_size=4), train)
    # The first batch may come of workers, which draw from generators of their own; none is old.
    assert planned[0] == plain[0] == [0] * 4
    assert max(planned[-1]) > 10
    assert len(planned) == len(plain)
    assert len(said) == 1


class Running(Dataset):
    """A mean over the samples so far, which the script reads."""

    def __init__(self):
        self.seen, self.mean = 0, 0.0

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.seen += 1
        self.mean += (index - self.mean) / self.seen
        return index - self.mean


class Noisy(Running):
    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.seen = 0

    def __getitem__(self, index):
        return self.rng.standard_normal()


class Queue(Running):
    """Hands out a list of its own, bit by bit, and fills it again."""

    def __init__(self):
        self.waiting, self.seen = [], 0

    def __getitem__(self, index):
        if not self.waiting:
            self.seen += 1
            self.waiting = [self.seen * 100 + place for place in range(10)]
        return float(self.waiting.pop())


@pytest.mark.parametrize("dataset", [Running, Noisy, Queue])
@pytest.mark.parametrize("config", [WORKERS, Config(0, fetch_threads=4)], ids=str)
def test_samples_that_change_what_they_read_stay_in_the_main_process(dataset, config):
    def train(loader, begin):
        for _ in range(2):
            yield [batch.tolist() for batch in begin()]
            yield loader.dataset.seen

    plain, planned, said = trained(lambda: DataLoader(dataset(), batch_size=4), train, config)
    assert planned == plain
    (line,) = said
    assert "from here on it runs as the script has it" in line


def test_workers_of_the_users_own_see_changes_when_they_would():
    def train(loader, begin):
        for _ in range(2):
            for batch in begin():
                yield batch.tolist()
                loader.dataset.progress += 1

    def make():
        return DataLoader(Rows(), batch_size=4, collate_fn=Collate(), num_workers=1)

    plain, planned, said = trained(make, train)
    assert planned == plain
    assert plain[0] == plain[9] == [0] * 4
    assert plain[10] == plain[-1] == [10] * 4
    assert said == ["the script changes Rows.progress between epochs: workers are started again, so that they see it"]


def test_what_stays_as_it_is_keeps_its_workers():
    begin, said = on_plan(loader := make())
    first = begin()
    pids = {worker.pid for worker in first._workers} if next(first) is not None else set()
    list(first)
    loader.dataset.dataset.datasets[0].unread = 3
    second = begin()
    next(second)
    assert {worker.pid for worker in second._workers} == pids != set()
    list(second)
    assert said == []


class Seeded(RandomSampler):
    """Shuffles by a generator of its own, which it seeds for each epoch, and counts epochs at its end."""

    epoch = 0

    def __iter__(self):
        self.generator = self.generator or torch.Generator()
        self.generator.manual_seed(self.epoch)
        yield from super().__iter__()
        self.epoch += 1


def test_a_sampler_that_changes_at_its_end_keeps_the_plan():
    def train(loader, begin):
        for _ in range(3):
            yield [batch.tolist() for batch in begin()]
            yield loader.sampler.epoch

    def make():
        rows = Rows(80)
        rows.labels = list(range(80))
        return DataLoader(rows, batch_size=4, sampler=Seeded(rows))

    plain, planned, said = trained(make, train)
    assert planned == plain
    assert said == []


class Drawing(Dataset):
    """Draws from a generator of its own, of which each worker has a copy."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return index, self.rng.random()


@pytest.mark.parametrize("config", [Config(3, 2), Config(2, 4), LASTING, Config(0)], ids=str)
def test_other_workers_than_the_users_draw_nothing_from_a_generator_of_the_datasets(config):
    def make():
        return DataLoader(Drawing(), batch_size=3, num_workers=2)

    def train(loader, begin):
        for _ in range(2):
            yield [values.tolist() for _, values in begin()]

    plain, planned, said = trained(make, train, config)
    assert planned == plain
    has_other_workers = (config.num_workers, config.persistent_workers) != (2, False)
    assert any("random generator" in line for line in said) is has_other_workers


class WholeBatches(Dataset):
    """Makes the batch of a list of indices, and of nothing else."""

    def __len__(self):
        return 40

    def __getitem__(self, indices):
        return torch.tensor([index * 2 for index in indices])


def test_a_dataset_that_makes_whole_batches_is_tried_with_whole_batches():
    def train(loader, begin):
        for _ in range(2):
            yield from (batch.tolist() for batch in begin())

    plain, on_workers, said = trained(
        lambda: DataLoader(
            WholeBatches(), sampler=BatchSampler(SequentialSampler(range(40)), 4, False), batch_size=None
        ),
        train,
    )
    assert on_workers == plain
    assert said == []


class RarelyDrawing(Drawing):
    """Draws for one sample in ten, which is none of the first ones."""

    def __getitem__(self, index):
        return index, self.rng.random() if index % 10 == 7 else 0.0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_generator_of_the_datasets_that_is_drawn_from_rarely_draws_what_it_would(workers):
    def make():
        return DataLoader(RarelyDrawing(), batch_size=3, num_workers=workers)

    def train(loader, begin):
        for _ in range(3):
            yield [values.tolist() for _, values in begin()]

    plain, planned, said = trained(make, train, Config(3, 2, persistent_workers=True))
    assert planned == plain
    assert any("of the dataset's own" in line for line in said)


class Typed(Dataset):
    """Samples that are of torch's default type, and hang on the working folder."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.ones(1) * len(os.getcwd())


def test_settings_of_the_process_reach_workers_that_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inner").mkdir()

    def train(loader, begin):
        yield [(str(batch.dtype), batch.tolist()) for batch in begin()]
        os.chdir("inner")
        yield [(str(batch.dtype), batch.tolist()) for batch in begin()]
        torch.set_default_dtype(torch.float64)
        yield [(str(batch.dtype), batch.tolist()) for batch in begin()]
        torch.set_default_dtype(torch.float32)
        os.chdir(tmp_path)

    plain, planned, said = trained(lambda: DataLoader(Typed(), batch_size=3), train)
    assert planned == plain
    assert ["the working folder" in said[0], "torch's default type" in said[1]] == [True, True]


class Meta(type):
    level = 0


class OfMeta(metaclass=Meta):
    pass


class Settled(Dataset):
    """Samples that hang on what is set for the whole process, or by a metaclass."""

    def __len__(self):
        return 80

    def __getitem__(self, index):
        return str(decimal.Decimal(1) / 7), str(np.array([1 / 7])), np.geterr()["divide"], str(type(OfMeta).level)


SETTINGS = {
    "decimal": (lambda: setattr(decimal.getcontext(), "prec", 3), lambda: setattr(decimal.getcontext(), "prec", 28)),
    "seterr": (lambda: np.seterr(divide="ignore"), lambda: np.seterr(divide="warn")),
    "printoptions": (lambda: np.set_printoptions(precision=2), lambda: np.set_printoptions(precision=8)),
    "a metaclass": (lambda: setattr(Meta, "level", 1), lambda: setattr(Meta, "level", 0)),
}


@pytest.mark.parametrize("at", [0, 1, 13])
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_the_loop_changes_are_seen(name, at):
    change, undo = SETTINGS[name]
    if name == "printoptions" and at == 13:
        pytest.skip("reading them takes too long to do it before each batch")

    def train(loader, begin):
        for epoch in range(2):
            for step, batch in enumerate(begin()):
                if (epoch, step) == (int(at == 0), at):
                    change()
                yield batch
        undo()

    plain, planned, _ = trained(lambda: DataLoader(Settled(), batch_size=4), train)
    assert planned == plain


class Gain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain


class Scripted(Dataset):
    """Samples by a module that torch has compiled."""

    def __init__(self):
        self.transform = torch.jit.script(Gain())

    def __len__(self):
        return 80

    def __getitem__(self, index):
        return self.transform(torch.full((2,), float(index)))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_an_attribute_of_a_compiled_module_is_seen():
    def train(loader, begin):
        for epoch in range(3):
            for step, batch in enumerate(begin()):
                yield batch.tolist()
                if (epoch, step) == (1, 13):
                    loader.dataset.transform.gain = 2.0
            loader.dataset.transform.gain += 1.0

    plain, planned, _ = trained(lambda: DataLoader(Scripted(), batch_size=4), train)
    assert planned == plain


@functools.lru_cache(maxsize=1)
def labels_in(file):
    return json.loads(Path(file).read_text())


class Labelled(Dataset):
    """Samples with labels from a file that the script writes anew."""

    def __init__(self, file, keep):
        self.file, self.keep, self.labels = file, keep, None

    def __len__(self):
        return 20

    def __getitem__(self, index):
        if self.keep == "cached":
            return labels_in(self.file)[index]
        if self.keep == "attribute":
            self.labels = self.labels or json.loads(Path(self.file).read_text())
            return self.labels[index]
        return json.loads(Path(self.file).read_text())[index]


def rewrite(loader, label):
    Path(loader.dataset.file).write_text(json.dumps([label] * 20))
    if loader.dataset.keep == "cached":
        labels_in.cache_clear()
    loader.dataset.labels = None


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["cached", "attribute", "nothing"])
@pytest.mark.parametrize("config", [LASTING, STORING], ids=["workers", "store"])
@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_samples_read_are_read_again_when_they_are_others(keep, config, workers, tmp_path):
    def train(loader, begin):
        for epoch in range(3):
            rewrite(loader, 10**epoch)
            yield [batch.tolist() for batch in begin()]

    def make():
        labels_in.cache_clear()
        return DataLoader(Labelled(str(tmp_path / "labels.json"), keep), batch_size=4, num_workers=workers)

    rewrites = Rewrites((Cut("sample", (), (), code_of_samples(make().dataset)),))
    plain, planned, said = trained(make, train, config, rewrites)
    assert planned == plain
    assert plain[2][0] == [100] * 4
    assert all("between epochs" in line for line in said)
    assert bool(said) == bool(config.num_workers)


def test_a_file_that_is_another_within_an_epoch_is_read_at_once(tmp_path):
    def train(loader, begin):
        rewrite(loader, -1)
        for step, batch in enumerate(begin()):
            yield batch.tolist()
            rewrite(loader, 10**step)

    def make():
        return DataLoader(Labelled(str(tmp_path / "labels.json"), "nothing"), batch_size=4)

    plain, planned, said = trained(make, train, WORKERS)
    assert planned == plain
    assert "the loop changes the file labels.json while an epoch runs" in said[-1]


@pytest.mark.parametrize("config", [WORKERS, LASTING, Config(0, fetch_threads=4)], ids=str)
def test_one_batch_of_each_epoch_of_changing_data_is_left_to_the_script_s_own_loader(config):
    def train(loader, begin):
        for step in range(8):
            yield next(iter(begin())).tolist()
            loader.dataset.weights[:] = step

    def make():
        return DataLoader(Rows(), batch_size=4)

    plain, planned, said = trained(make, train, config)
    assert planned == plain
    assert plain[-1] == [6.0] * 4
    assert "each time that it has read one batch" in said[-1]
    assert len(set(said)) <= 2


def test_whole_epochs_of_changing_data_keep_their_workers():
    def train(loader, begin):
        for epoch in range(5):
            yield [batch.tolist() for batch in begin()]
            loader.dataset.weights[:] = epoch

    plain, planned, said = trained(lambda: DataLoader(Rows(), batch_size=4), train)
    assert planned == plain
    assert set(said) == {
        "the script changes Rows.weights between epochs: workers are started again, so that they see it"
    }


class Parts(Dataset):
    """Hands out rows of its own table."""

    def __init__(self):
        self.table, self.seen = torch.zeros(20, 2), 0

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return self.table[index]


@pytest.mark.parametrize(("dataset", "size"), [(Parts, None), (Running, 4)])
def test_what_the_user_s_workers_have_copies_of_is_not_touched_in_their_place(dataset, size):
    def train(loader, begin):
        for _ in range(2):
            for batch in begin():
                yield batch.tolist()
                batch.add_(1)
            yield loader.dataset.seen

    plain, planned, said = trained(lambda: DataLoader(dataset(), batch_size=size, num_workers=1), train, Config(0))
    assert planned == plain
    (line,) = said
    assert "from here on it runs as the script has it" in line
