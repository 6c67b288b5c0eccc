"""What users pass wrongly from Python: each gets one line that says what is wrong and what to write, at once."""

import pathlib

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

import plumb
from plumb.core.errors import TuningError
from plumb.core.plan import PlanError


class Squares(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return index**2


class Empty(IterableDataset):
    def __iter__(self):
        return iter(())


class DataFrame:
    """What a frame of pandas shows of itself; pandas may be absent."""

    def __len__(self):
        return 3

    def __getitem__(self, column):
        raise KeyError(column)


DATA = torch.zeros(64, 3)


def tune(given=DATA, **wrong):
    return lambda: plumb.tune(given, **{"batch_size": 32, **wrong})


def tuned(**wrong):
    return lambda: plumb.tuned(**wrong)(type("Mine", (Squares,), {}))


ERRORS = {
    # ---- what is tuned
    "nothing": (tune(None), TypeError, "not None: does the function that should make it return it?"),
    "a number": (tune(5), TypeError, "a dataset or one of torch's loaders, not 5"),
    "a folder": (tune("data/train"), TypeError, "not the text 'data/train': give an object that reads it"),
    "a path": (tune(pathlib.Path("data")), TypeError, "ImageFolder('data')"),
    "a script": (tune("train.py"), TypeError, "type in a terminal: plumb tune train.py"),
    "a frame": (tune(DataFrame()), TypeError, "TensorDataset(torch.tensor(frame.to_numpy()))"),
    "a class": (tune(Squares), TypeError, "give an object of it, Squares(...)"),
    "a function": (tune(lambda: DATA), TypeError, "not a function: give what"),
    "a generator": (tune(x for x in range(3)), TypeError, "not a generator: put it into a list"),
    "a set": (tune({1, 2}), TypeError, "not a set: put it into a list"),
    "an empty list": (tune([]), TuningError, "list is empty"),
    "an empty list, shuffled": (tune([], shuffle=True), TuningError, "list is empty"),
    "a batch that is never full": (
        lambda: plumb.tune(DataLoader(DATA, batch_size=128, drop_last=True)), TuningError, "64 samples, fewer than"
    ),
    # ---- with what
    "a step that is a word": (tune(step="fast"), TypeError, "step='fast': give the function that trains on a batch"),
    "a step that is true": (tune(step=True), TypeError, "such as step=2600.0"),
    "a step of nothing": (tune(step=0), ValueError, "step=0: it is a callable, or a finite number"),
    "cpus in quotes": (tune(cpus="4"), TypeError, "cpus='4': a limit is a number, for example cpus=4"),
    "no cpus": (tune(cpus=0), ValueError, "cpus=0: a limit must be a number above 0"),
    "a memory without a unit": (tune(memory="8"), ValueError, 'memory="8": 8 has no unit: write 8GiB'),
    "a memory that is none": (tune(memory="much"), ValueError, "memory=\"much\": 'much' is not a size"),
    "a memory in a list": (tune(memory=[8]), TypeError, 'memory=[8]: write a size with its unit, for example memory='),
    "too little memory": (tune(memory="1MiB"), TuningError, "1 MiB that are allowed: allow more, for example memory="),
    "a memory in GiB, meant": (tune(memory=8), TuningError, "more than the 8 B that are allowed: allow more"),
    "workers in quotes": (tune(max_workers="4"), TypeError, "max_workers='4': write a whole number"),
    "half a worker": (tune(max_workers=1.5), TypeError, "for example max_workers=4"),
    "fewer workers than none": (tune(max_workers=-1), ValueError, "max_workers=-1: a limit must be a number from 0"),
    "limits in a dictionary": (tune(limits={"cpus": 1}), TypeError, "write limits=plumb.Limits(cpus=1)"),
    "limits that are a number": (tune(limits=4), TypeError, "limits=4: write for example limits=plumb.Limits(cpus=4)"),
    "limits too small": (tune(limits=plumb.Limits(memory_bytes=1e6)), TuningError, "977 KiB that are allowed"),
    "a folder that is a file": (tune(cache_dir=__file__), ValueError, "is a file: name a folder"),
    "a folder that can't be": (tune(cache_dir=f"{__file__}/stores"), ValueError, "can't be written to: name a folder"),
    "a folder that is a number": (tune(cache_dir=3), TypeError, 'cache_dir=3: write a folder, for example cache_dir="'),
    "a budget in quotes": (tune(budget="30"), TypeError, "budget='30': it is a number of seconds, for example"),
    "a negative budget": (tune(budget=-1), ValueError, "budget=-1: it is a number of seconds above 0"),
    "no number as budget": (tune(budget=float("nan")), ValueError, "budget=nan: it is a number of seconds above 0"),
    "a budget for ever": (tune(budget=1e300), ValueError, "budget=1e+300: it is a number of seconds above 0 and up to"),
    "a batch size for a loader": (tune(DataLoader(DATA)), TypeError, "a loader and batch_size: a loader has its own"),
    # ---- the others
    "tuned: a budget in quotes": (tuned(budget="60"), TypeError, "budget='60': it is a number of seconds"),
    "tuned: a negative budget": (tuned(budget=-1), ValueError, "budget=-1: it is a number of seconds above 0"),
    "tuned: no number": (tuned(budget=float("nan")), ValueError, "budget=nan"),
    "tuned: a dictionary": (tuned(limits={"cpus": 1}), TypeError, "write limits=plumb.Limits(cpus=1)"),
    "tuned: a memory in quotes": (tuned(cache_memory_bytes="4"), ValueError, "4 has no unit: write 4GiB"),
    "tuned: on a number": (lambda: plumb.tuned(3), TypeError, "goes on a Dataset class or on a function"),
    "Limits: cpus in quotes": (lambda: plumb.Limits(cpus="4"), TypeError, "cpus='4': a limit is a number"),
    "Limits: memory": (lambda: plumb.Limits(memory="8GiB"), TypeError, "write memory_bytes=8 * 2**30, or one of"),
    "Limits: bytes in quotes": (lambda: plumb.Limits(memory_bytes="8GiB"), TypeError, "example memory_bytes=8 * 2**30"),
    "Limits: below none": (lambda: plumb.Limits(open_files=-1), ValueError, "must be a number from 0"),
    "trace: a script": (lambda: plumb.trace("train.py"), TypeError, "type in a terminal: plumb trace train.py"),
    "trace: nothing": (lambda: plumb.trace(None), TypeError, "not None"),
    "trace: no samples": (lambda: plumb.trace(DATA, samples=0), ValueError, "samples=0: at least one is traced"),
    "trace: samples in quotes": (lambda: plumb.trace(DATA, samples="8"), TypeError, "samples='8': it is a whole"),
    "trace: an empty list": (lambda: plumb.trace([]), TuningError, "list is empty"),
    "predict: a dataset": (lambda: plumb.predict(DATA), TypeError, "plumb.predict takes a plan, not Tensor"),
    "predict: no plan": (lambda: plumb.predict("no.json"), PlanError, "no.json: cannot be read"),
    "report: a dataset": (lambda: plumb.report(DATA), TypeError, "plumb.report takes a plan, not Tensor"),
}  # fmt: skip


@pytest.mark.parametrize("row", list(ERRORS))
def test_a_wrong_argument_gets_one_line_before_anything_is_measured(row, monkeypatch):
    call, kind, words = ERRORS[row]
    for module in ("plumb.tuning.in_loop.TuningWork.run_for_step", "plumb.api.trace.run"):
        monkeypatch.setattr(module, lambda *_, **__: pytest.fail("something was measured"))
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value)
    assert "the script itself" not in str(caught.value)


def test_a_stream_without_samples_is_said_to_be_empty():
    with pytest.raises(TuningError, match="has no batches: its dataset gives no samples"):
        plumb.tune(Empty(), batch_size=4, budget=1)


@pytest.mark.parametrize("number", [numpy.float64(4), numpy.int64(4), 4])
def test_numbers_of_numpy_are_numbers(number):
    assert plumb.Limits(cpus=number).cpus == 4


def test_limits_of_their_own_arguments_are_those_of_an_object(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("plumb.api.in_process.tune_here", lambda loader, site, options, step: asked.append(options))
    plumb.tune(DATA, cpus=1, memory="64GiB", max_workers=3, cache_dir=tmp_path / "new")
    plumb.tune(DATA, limits=plumb.Limits(cpus=1, open_files=99, max_workers=3), max_workers=2)
    first, second = (options.limits for options in asked)
    assert (first.cpus, first.max_workers, asked[0].cache_folder) == (1, 3, str(tmp_path / "new"))
    assert first.memory_bytes <= 64 * 2**30
    assert (second.cpus, second.open_files, second.max_workers) == (1, 99, 2)
    assert not (tmp_path / "new").exists()
