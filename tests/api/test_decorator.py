"""`plumb.tuned` and `plumb.operator`: on whole scripts under fork and spawn, and on what Python shows of them."""

import copy
import dataclasses
import inspect
import json
import os
import pickle
import pydoc
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

import plumb
from plumb.api.decorator import MarkedDatasets
from plumb.core import plan
from plumb.core.config import Config
from plumb.rewrites.find_cuts import find_cuts
from plumb.tracing.tracer import trace
from plumb.tuning.dataset_settings import Settings, settings_of

SCRIPT = '''
import json, multiprocessing, os, sys, time
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
import plumb

class Plain(Dataset):
    def __init__(self, length=64):
        self.length = length
    def __len__(self):
        return self.length
    def __getitem__(self, index):
        time.sleep(0.002)
        return torch.full((4,), float(index))

@plumb.tuned(budget=1.5)
class Numbers(Plain):
    """Numbers, slowly."""

@plumb.tuned(budget=1.5)
def make(length):
    return Plain(length)

def show(loader):
    for epoch in range(2):
        print([batch[:, 0].int().tolist() for batch in loader])

'''
ORDERED = [list(range(start, start + 8)) for start in range(0, 64, 8)]
TWICE = f"{ORDERED}\n{ORDERED}\n"


@pytest.fixture
def script(tmp_path):
    """Runs a script as its user would, with a cache folder of its own."""

    def run(body, *command, **environment):
        (tmp_path / "train.py").write_text(SCRIPT + body)
        return subprocess.run(
            [sys.executable, *(command or ("train.py",))],
            cwd=tmp_path,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def plans(tmp_path):
    return sorted((tmp_path / "cache" / "plumb" / "plans").glob("*.json"))


def use_one_worker(file):
    """Gives a kept plan another configuration, so that it shows that it is used."""
    found = plan.read(file)
    entry = found.loaders[0]
    tuned = dataclasses.replace(entry.tuned, config=Config(1, 2, persistent_workers=True))
    plan.write(dataclasses.replace(found, loaders=(dataclasses.replace(entry, tuned=tuned),)), file)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.nightly)])
def test_a_loader_tunes_itself_once_and_the_next_run_is_on_its_plan_at_once(method, script, tmp_path):
    body = f"""
class Where(Numbers):
    def __getitem__(self, index):
        # Not in a child of this process that looks at a sample.
        if os.getpid() == getattr(sys, "main_process", None):
            print("read by the main process", file=sys.stderr)
        return super().__getitem__(index)

if __name__ == "__main__":
    if "--tunes" not in sys.argv:
        sys.main_process = os.getpid()
    multiprocessing.set_start_method({method!r})
    loader = DataLoader(Where(), batch_size=8)
    show(loader)
    print(loader.num_workers)
"""
    first = script(body, "train.py", "--tunes")
    assert first.stdout == TWICE + "0\n", first.stderr
    (said,) = first.stderr.splitlines()
    assert "Where (train.py:" in said
    assert "tuning it once" in said
    (kept,) = plans(tmp_path)
    assert str(kept) in said
    use_one_worker(kept)
    second = script(body)
    assert (second.stdout, second.stderr) == (TWICE + "0\n", ""), "the loader shows what the script gave it"
    assert plans(tmp_path) == [kept]


@pytest.mark.slow
def test_a_function_marks_what_it_returns_and_nothing_else(script, tmp_path):
    body = """
show(DataLoader(Plain(), batch_size=8))
show(DataLoader(make(64), batch_size=8))
"""
    ran = script(body)
    assert ran.stdout == TWICE * 2
    assert len(ran.stderr.splitlines()) == 1
    assert len(plans(tmp_path)) == 1


@pytest.mark.slow
def test_off_means_off(script, tmp_path):
    body = """
show(DataLoader(Numbers(), batch_size=8))
show(plumb.DataLoader(make(64), batch_size=8))
import inspect
print(make.__module__, hasattr(make, "__wrapped__"))
print(inspect.getsourcefile(DataLoader.__iter__).rpartition("/")[2])
"""
    ran = script(body, PLUMB="off")
    assert ran.stdout.startswith(TWICE * 2)
    assert ran.stdout.endswith("__main__ False\ndataloader.py\n")
    assert ran.stderr == ""
    assert plans(tmp_path) == []


def undelivered(text):
    """A plan without what its runs delivered, which each run brings up to date."""
    plan = json.loads(text)
    return {**plan, "loaders": [{**loader, "delivered": None} for loader in plan["loaders"]]}


@pytest.mark.slow
def test_a_plan_file_of_one_s_own_is_written_and_then_read(script, tmp_path):
    body = """
@plumb.tuned(budget=1.5, plan="numbers.json")
class Kept(Plain):
    pass
show(DataLoader(Kept(), batch_size=8))
"""
    assert "plumb report" in script(body).stderr
    assert plans(tmp_path) == []
    assert "Kept" in plumb.LoaderPlan.load(tmp_path / "numbers.json").explain()
    text = (tmp_path / "numbers.json").read_text()
    other = script(body + "show(DataLoader(Kept(), batch_size=16))")
    assert len(other.stderr.splitlines()) == 2, "its own loader starts at once, the other is tuned"
    assert "made for another dataset, loader or host; it is not used" in other.stderr
    assert undelivered((tmp_path / "numbers.json").read_text()) == undelivered(text), "a plan for something else stays"


@pytest.mark.slow
def test_the_commands_plan_counts_where_a_command_runs_the_script(script, tmp_path):
    body = """
loader = DataLoader(Numbers(), batch_size=8)
own = plumb.DataLoader(make(64), batch_size=8, shuffle=True)
model = torch.nn.Linear(4, 1)
for epoch in range(1000 if "--long" in sys.argv else 1):
    for batch in loader:
        model(batch).sum().backward()
for batch in own:
    pass
print("done", loader.num_workers)
"""
    tuned = script(body, "-m", "plumb", "tune", "--budget", "4", "train.py", "--long")
    assert tuned.returncode == 0, tuned.stderr
    assert "tuning it once" not in tuned.stdout + tuned.stderr
    ran = script(body, "-m", "plumb", "run", "train.py")
    assert "done" in ran.stdout
    assert "tuning it once" not in ran.stderr
    assert plans(tmp_path) == []


def test_what_can_be_read_only_once_is_left_alone(script, tmp_path):
    body = """
@plumb.tuned(budget=1)
class Lines(IterableDataset):
    def __init__(self):
        self.lines = iter(range(64))
    def __iter__(self):
        yield from self.lines
print(sum(len(batch) for batch in DataLoader(Lines(), batch_size=8)))
"""
    ran = script(body)
    assert ran.stdout == "64\n"
    assert "was not tuned: Lines reads on from where it is" in ran.stderr


@pytest.mark.slow
def test_a_failing_dataset_fails_as_it_does_without_plumb(script):
    body = """
@plumb.tuned(budget=1)
class Broken(Plain):
    def __getitem__(self, index):
        raise KeyError("mine")
next(iter(DataLoader(Broken(), batch_size=8)))
"""
    ran = script(body)
    assert ran.returncode == 1
    assert ran.stderr.rstrip().endswith("KeyError: 'mine'")
    assert "was not tuned: KeyError: 'mine'" in ran.stderr


# ---- what Python shows of a decorated class and function


@plumb.tuned
class Letters(Dataset):
    """Letters, one by one."""

    def __len__(self) -> int:
        return 26

    def __getitem__(self, index: int) -> int:
        return index


class Capitals(Letters):
    pass


@plumb.tuned(budget=5, cache_memory_bytes=0)
def letters(first: int = 0) -> Dataset:
    """Letters from `first` on."""
    return Subset(range(26), range(first, 26))


def test_the_class_stays_what_it_was():
    assert Letters.__name__ == Letters.__qualname__ == "Letters"
    assert Letters.__module__ == __name__
    assert Letters.__doc__ == "Letters, one by one."
    assert isinstance(Capitals(), Letters)
    assert "plumb" not in pydoc.plain(pydoc.render_doc(Letters)).replace(__name__, "")
    assert vars(Letters()) == {}
    assert pickle.loads(pickle.dumps(Capitals)) is Capitals


def test_the_function_stays_what_it_was():
    assert letters.__name__ == letters.__qualname__ == "letters"
    assert letters.__doc__ == "Letters from `first` on."
    assert str(inspect.signature(letters)).startswith("(first: int = 0)")
    assert pickle.loads(pickle.dumps(letters)) is letters
    assert isinstance(letters(3), Subset)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
@pytest.mark.parametrize("made", [Letters, Capitals, lambda: letters(2)])
def test_the_mark_stays_on_copies_and_subclasses(made, again):
    assert settings_of(again(made())) == settings_of(made()) is not None
    assert settings_of(Subset(made(), range(3))) == settings_of(made())
    assert settings_of(Subset(range(3), range(2))) is None


def test_what_can_t_be_marked_is_said(capfd):
    @plumb.tuned
    def listed():
        return [1, 2]

    assert listed() == [1, 2]
    assert "listed returned a list, which can't be tuned" in capfd.readouterr().err
    with pytest.raises(TypeError, match="goes on a Dataset class or on a function"):
        plumb.tuned(5)


def test_a_loader_over_unmarked_data_is_started_as_it_stands():
    started = object()
    loader = DataLoader(range(4))
    assert MarkedDatasets().iterating(loader, lambda: started, True) is started


@pytest.mark.slow
def test_a_loader_whose_arguments_the_script_changes_gets_another_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Letters, "_plumb_tuned", Settings(budget_seconds=1))
    loader = DataLoader(Letters(), batch_size=13)
    whole = [list(range(13)), list(range(13, 26))]
    assert [batch.tolist() for batch in loader] == whole
    loader.num_workers = 1
    loader.prefetch_factor = 2
    assert [batch.tolist() for batch in loader] == whole
    baselines = [plumb.LoaderPlan.load(file).baseline.config.num_workers for file in plans(tmp_path)]
    assert sorted(baselines) == [0, 1]


class Nested(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return sum(len(batch) for batch in plumb.DataLoader(Letters(), batch_size=4))


def test_a_worker_never_tunes(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert [batch.tolist() for batch in DataLoader(Nested(), num_workers=1)] == [[26]]
    assert capfd.readouterr().err == ""
    assert plans(tmp_path) == []


# ---- plumb.operator


@plumb.operator(name="denoise")
def clean(sample):
    return torch.fft.irfft(torch.fft.rfft(sample) * 0.5, n=len(sample))


class Shake:
    @plumb.operator(deterministic=False)
    def __call__(self, sample):
        return torch.sin(sample).cos().tan()


class Waves(Dataset):
    def __init__(self):
        self.shake = Shake()

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return torch.exp(self.shake(clean(torch.arange(50_000) * float(index))))


def test_a_hinted_call_is_one_operator_and_stops_cuts():
    traced = trace(Waves(), 8)
    operators = {operator.id: operator for operator in traced.pipeline.operators}
    assert {"denoise", "Shake"} <= set(operators)
    assert not {"torch.fft.rfft", "torch.sin"} & set(operators)
    assert operators["denoise"].deterministic
    assert operators["Shake"].random
    found = find_cuts(traced)
    assert not {"Shake", "torch.exp"} & {candidate.cut.after for candidate in found.candidates}
    assert "Nothing is stored after torch.exp: Shake is marked as not deterministic." in found.reasons


def test_a_hint_costs_nothing_and_changes_nothing():
    def plain(value):
        return value

    assert plumb.operator(plain) is plain
    assert plumb.operator(deterministic=True)(plain) is plain
    assert pickle.loads(pickle.dumps(clean)) is clean
    with pytest.raises(TypeError, match="goes on a function or a method"):
        plumb.operator(3)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"budget": seconds} for seconds in (0, -5.0, float("nan"), float("inf"))),
        *({"cache_memory_bytes": size} for size in (-1, float("nan"))),
    ],
)
def test_a_number_that_can_t_be_meant_is_refused_where_it_is_written(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}=.*: it is a "):
        plumb.tuned(**wrong)
