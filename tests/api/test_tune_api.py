"""`plumb.tune`, its plan, and `plumb.DataLoader`, as a notebook or a script uses them."""

import copy
import dataclasses
import inspect
import os
import pickle
import random
import subprocess
import sys
import time
from xml.etree import ElementTree

import networkx
import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import plumb
from plumb.api import plan_cache
from plumb.core.config import Config
from plumb.core.errors import TuningError
from plumb.core.plan import PlanError
from plumb.runtime.store.catalog import find_stores
from plumb.tuning.dataset_settings import Settings

BUDGET = 2.0


class Waiting(torch.utils.data.Dataset):
    """Samples that take a moment, and a dataset that changes when it is read."""

    def __init__(self, length=96, seconds=0.002):
        self.length, self.seconds = length, seconds
        self.reads = 0
        self.seen = []
        self.dice = random.Random(3)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index >= self.length:
            raise IndexError(index)
        self.reads += 1
        self.seen.append(index)
        time.sleep(self.seconds)
        return torch.full((8,), float(index)), torch.rand(1), self.dice.random()


class Slow(Waiting):
    def __getitem__(self, index):
        time.sleep(0.1)
        return torch.full((8,), float(index))


class Broken(Waiting):
    def __getitem__(self, index):
        raise KeyError("mine")


def orders(loader, seed=7):
    torch.manual_seed(seed)
    return [x[:, 0].int().tolist() for x, _, _ in loader]


@pytest.fixture(scope="module")
def plan():
    return plumb.tune(Waiting(), batch_size=8, shuffle=True, budget=BUDGET)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "plumb" / "plans"


def on(plan, **changes):
    """The plan with another configuration than the one that was measured."""
    entry = plan.entry
    tuned = dataclasses.replace(entry.tuned, config=dataclasses.replace(entry.baseline.config, **changes))
    entry = dataclasses.replace(entry, tuned=tuned)
    return plumb.LoaderPlan(dataclasses.replace(plan.found, loaders=(entry,)))


# ---- the plan


def test_a_plan_says_what_was_found_and_why(plan):
    assert plan.baseline.config == Config()
    assert plan.tuned.samples_per_second > 0
    assert plan.predicted.bottleneck in plan.predicted.bounds
    assert isinstance(plan.graph, networkx.DiGraph)
    assert any("sleep" in name for name in plan.graph)
    assert "limit" in plan.explain()
    assert "Waiting" in repr(plan)
    assert "\x1b" not in plan.explain()


def test_a_configuration_is_plain_data_that_torch_takes(plan):
    assert dataclasses.asdict(plan.config)["num_workers"] == plan.config.num_workers
    loader = torch.utils.data.DataLoader(Waiting(), batch_size=8, **plan.config.loader_arguments())
    assert loader.num_workers == plan.config.num_workers


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"num_workers": 2, "prefetch_factor": 2, "persistent_workers": True}, {"fetch_threads": 4}],
)
def test_a_loader_on_the_plan_delivers_what_torch_s_does(plan, changes):
    changed = on(plan, **changes)
    loader = changed.loader(Waiting(), shuffle=True)
    plain = torch.utils.data.DataLoader(Waiting(), batch_size=8, shuffle=True)
    assert loader.num_workers == changed.config.num_workers
    assert [orders(loader) for _ in range(2)] == [orders(plain) for _ in range(2)]


def test_a_plan_is_for_its_dataset_and_batch_size_alone(plan):
    with pytest.raises(ValueError, match="the plan is for Waiting, not for Broken"):
        plan.loader(Broken())
    with pytest.raises(ValueError, match="batch_size=8, not 16"):
        plan.loader(Waiting(), batch_size=16)


@pytest.mark.slow
def test_a_saved_plan_is_the_same_plan_and_has_a_report(plan, plumb, tmp_path):
    plan.save(tmp_path / "saved.json")
    assert type(plan).load(tmp_path / "saved.json") == plan
    told = plumb("report", "saved.json")
    assert told.code == 0
    assert "Waiting" in told.out
    assert plumb("report", "saved.json", "--html", "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    assert "<title>plumb: Waiting</title>" in page
    assert "plumb run " not in told.out + page
    with pytest.raises(PlanError, match="name one of its loaders: Waiting"):
        type(plan).load(tmp_path / "saved.json", name="other")


def test_notebooks_are_shown_html_that_stands_alone(plan):
    named = dataclasses.replace(plan.entry, name="<script>alert(1)</script>", site="<ipython-input-1>:3")
    shown = plumb.LoaderPlan(dataclasses.replace(plan.found, loaders=(named,)))._repr_html_()
    traced = plumb.trace(Waiting())._repr_html_()
    for html in (shown, traced):
        ElementTree.fromstring(html)  # well-formed
        assert "<script" not in html
        assert "http" not in html
    assert "&lt;script&gt;" in shown
    assert "time.sleep" in traced


# ---- tune


def test_tuning_leaves_generators_and_the_dataset_as_they_were():
    torch.manual_seed(1)
    random.seed(1)
    numpy.random.seed(1)
    dataset, generator = Waiting(), torch.Generator().manual_seed(5)
    before = [torch.rand(1).item(), random.random(), numpy.random.random(), dataset.dice.random()]
    torch.manual_seed(1)
    random.seed(1)
    numpy.random.seed(1)
    dataset.dice.seed(3)
    plumb.tune(dataset, batch_size=8, shuffle=True, generator=generator, budget=1)
    assert [torch.rand(1).item(), random.random(), numpy.random.random(), dataset.dice.random()] == before
    assert (dataset.reads, dataset.seen) == (0, [])
    assert all(os.getpid() not in store.users for store in find_stores())
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())


def test_a_budget_in_which_nothing_can_be_tried_is_said_to_be_too_short():
    class Resting(torch.utils.data.Dataset):
        def __len__(self):
            return 96

        def __getitem__(self, index):
            time.sleep(0.002)
            return torch.zeros(4)

    plan = plumb.tune(Resting(), batch_size=8, budget=0.3)
    # A look at the model's best beside the script's own may fit into the overtime.
    words = ("did not suffice to try ", "in turns with your own configuration")
    (told,) = (note for note in plan.entry.notes if any(each in note for each in words))
    assert "num_workers=" in told
    assert "in turns" in told or plan.config == plan.entry.baseline.config


@pytest.mark.slow
def test_batches_that_take_seconds_leave_time_to_try_something():
    entry = plumb.tune(Slow(640), batch_size=32, budget=30.0).entry
    assert [trial for trial in entry.trials if trial.config != entry.baseline.config], entry.notes
    assert entry.tuned.config.fetch_threads > 1 or entry.tuned.config.num_workers > 0, entry.notes
    assert entry.tuned.interval[0] > entry.baseline.interval[1]


def test_a_step_that_is_a_callable_is_given_batches_and_measured():
    taken = []

    def step(batch):
        taken.append(batch[0].shape)
        time.sleep(0.002)

    plan = plumb.tune(Waiting(), batch_size=8, step=step, budget=BUDGET)
    assert set(taken) == {(8, 8)}
    assert plan.entry.step_samples_per_second > 0
    assert plan.entry.end_to_end is not None


def test_a_step_that_is_a_rate_bounds_what_is_predicted():
    plan = plumb.tune(Waiting(), batch_size=8, step=50.0, budget=1)
    assert plan.entry.step_samples_per_second == 50.0
    assert plan.predicted.bounds["step"] == 50.0


@pytest.mark.slow
def test_a_loader_is_tuned_as_it_is():
    loader = torch.utils.data.DataLoader(Waiting(), batch_size=4, num_workers=1)
    plan = plumb.tune(loader, limits=plumb.Limits(max_workers=1), budget=BUDGET)
    assert plan.baseline.config.num_workers == 1
    assert all(trial.config.num_workers <= 1 for trial in plan.entry.trials if trial.samples_per_second)
    with pytest.raises(TypeError, match="a loader and batch_size, shuffle"):
        plumb.tune(loader, batch_size=4, shuffle=True)


def test_the_user_s_own_exceptions_come_through():
    def step(batch):
        raise ZeroDivisionError("mine too")

    with pytest.raises(KeyError, match="mine"):
        plumb.tune(Broken(), batch_size=8, budget=1)
    with pytest.raises(ZeroDivisionError, match="mine too"):
        plumb.tune(Waiting(), batch_size=8, step=step, budget=1)
    with pytest.raises(ValueError, match="mutually exclusive"):
        plumb.tune(Waiting(), shuffle=True, sampler=range(3), budget=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": 0.0}, {"step": -1}, {"step": float("nan")}, {"step": float("inf")},
        {"budget": 0}, {"budget": float("nan")}, {"budget": float("inf")},
    ],
)  # fmt: skip
def test_rates_and_budgets_are_above_zero_and_finite(wrong):
    with pytest.raises(ValueError, match="above 0"):
        plumb.tune(Waiting(), batch_size=8, **wrong)


@pytest.mark.parametrize("step", [None, print])
def test_there_must_be_something_to_measure(step):
    with pytest.raises(TuningError) as caught:
        plumb.tune(Waiting(0), batch_size=8, step=step, budget=1)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_session_without_a_file_can_tune():
    code = """
import plumb, torch
class Ones(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        return torch.ones(100)
plan = plumb.tune(Ones(), batch_size=8, budget=1)
print("rate", plan.tuned.samples_per_second > 0)
"""
    done = subprocess.run([sys.executable], input=code, capture_output=True, text=True, timeout=100)
    assert done.stdout == "rate True\n", done.stderr
    assert done.stderr == "", "quiet where there is no terminal"


# ---- plumb.DataLoader


class Mine(plumb.DataLoader):
    def __init__(self, dataset, size):
        super().__init__(dataset, batch_size=size, tune=False)


def test_it_is_torch_s_loader_to_all_who_look():
    loader = plumb.DataLoader(Waiting(8), 4, True, drop_last=True, tune=False)
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert (loader.batch_size, loader.drop_last, len(loader)) == (4, True, 2)
    plain = inspect.signature(torch.utils.data.DataLoader).parameters
    assert list(inspect.signature(plumb.DataLoader).parameters) == [*plain, "tune"]
    assert orders(Mine(Waiting(8), 4)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(ValueError, match="tune='never'"):
        plumb.DataLoader(Waiting(), tune="never")


@pytest.mark.parametrize("again", [copy.copy, lambda loader: pickle.loads(pickle.dumps(loader))])
def test_copies_and_pickles_run_on_the_plan_too(again, plan):
    loader = on(plan, num_workers=1, prefetch_factor=2, fetch_threads=2).loader(Waiting(16))
    first = orders(loader)
    other = again(loader)
    assert other.num_workers == 1
    assert orders(other) == first == [list(range(8)), list(range(8, 16))]


def test_without_a_plan_and_the_wish_to_tune_it_is_torch_s(cache, capfd):
    assert orders(plumb.DataLoader(Waiting(16), 8, tune=False)) == [list(range(8)), list(range(8, 16))]
    assert capfd.readouterr().err == ""
    assert not cache.exists()


@pytest.mark.slow
def test_it_tunes_itself_once_and_the_plan_is_there_the_next_time(cache, capfd, monkeypatch):
    monkeypatch.setattr(Waiting, "_plumb_tuned", Settings(budget_seconds=1), raising=False)
    loader = plumb.DataLoader(Waiting(40), 8)
    plain = [list(range(start, start + 8)) for start in range(0, 40, 8)]
    assert [orders(loader) for _ in range(2)] == [plain, plain]
    (file,) = cache.iterdir()
    assert [line.count("tuning it once") for line in capfd.readouterr().err.splitlines()] == [1]
    assert plumb.LoaderPlan.load(file).entry.dataset == "Waiting"
    for folder in (cache, cache.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert orders(plumb.DataLoader(Waiting(40), 8)) == plain
    assert capfd.readouterr().err == ""


def test_a_live_loader_goes_on_in_the_middle_of_an_epoch():
    torch.manual_seed(0)
    loader = plumb.DataLoader(torch.arange(64), batch_size=4, shuffle=True, tune="live")
    batches = iter(loader)
    begun = [next(batches).tolist() for _ in range(5)]
    state = loader.state_dict()
    rest = [batch.tolist() for batch in batches]
    again = plumb.DataLoader(torch.arange(64), batch_size=4, shuffle=True, tune="live")
    again.load_state_dict(state)
    assert [batch.tolist() for batch in again] == rest
    assert sorted(number for batch in (*begun, *rest) for number in batch) == list(range(64))
    torch.manual_seed(0)
    plain = torch.utils.data.DataLoader(torch.arange(64), batch_size=4, shuffle=True)
    assert [batch.tolist() for batch in plain] == begun + rest


def test_only_a_live_loader_looks_like_one_that_keeps_its_place():
    assert not hasattr(plumb.DataLoader(torch.arange(4), tune=False), "state_dict")
    assert hasattr(plumb.DataLoader(torch.arange(4), tune="live"), "state_dict")


# ---- which plan is found


class Scaled(torch.utils.data.Dataset):
    def __init__(self, scale=1.0, root="data", transform=None):
        self.scale, self.root, self.transform = scale, root, transform
        self.cache = {}

    def __len__(self):
        return 32

    def __getitem__(self, index):
        if index not in self.cache:
            self.cache[index] = index * self.scale + len(self.root)
        return self.cache[index] if self.transform is None else self.transform(self.cache[index])


class Other(Scaled):
    def __getitem__(self, index):
        return index + self.scale


USUAL = Settings()


def facts(dataset, wishes=USUAL, **arguments):
    loader = torch.utils.data.DataLoader(dataset, **{"batch_size": 4, **arguments})
    return plan_cache.cache_key(loader, wishes.options())


@pytest.mark.parametrize(
    ("dataset", "wishes", "arguments"),
    [
        (Other(), USUAL, {}),
        (Scaled(2.0), USUAL, {}),
        (Scaled(root="other"), USUAL, {}),
        (Scaled(transform=len), USUAL, {}),
        (torch.utils.data.Subset(Scaled(), range(32)), USUAL, {}),
        (Scaled(), USUAL, {"batch_size": 8}),
        (Scaled(), USUAL, {"shuffle": True}),
        (Scaled(), USUAL, {"num_workers": 1}),
        (Scaled(), USUAL, {"collate_fn": list}),
        (Scaled(), Settings(may_reorder=True), {}),
        (Scaled(), Settings(on_device=True), {}),
        (Scaled(), Settings(limits=plumb.Limits(cpus=0.5)), {}),
    ],
)
def test_another_dataset_loader_or_wish_has_another_plan(dataset, wishes, arguments):
    assert plan_cache.cached_plan_path(facts(dataset, wishes, **arguments)) != plan_cache.cached_plan_path(
        facts(Scaled())
    )


@settings(max_examples=25)
@given(st.floats(allow_nan=False), st.text(), st.dictionaries(st.integers(), st.integers()))
def test_the_same_dataset_has_the_same_plan_whatever_it_has_cached(scale, root, cached):
    fresh, read = Scaled(scale, root), Scaled(scale, root)
    read.cache.update(cached)
    assert facts(fresh) == facts(read)


def test_a_plan_of_another_host_is_never_used(plan, cache):
    options = Settings().options()
    here = facts(Waiting(), batch_size=8, shuffle=True)
    there = dataclasses.replace(here, host={**here.host, "cpu_model": "another"})
    place = plan_cache.cached_plan_path(here)
    plan_cache.keep(plan.found, place, there)
    with pytest.raises(PlanError, match="another dataset, loader or host"):
        plan_cache.find(place, here, options)
    plan_cache.keep(plan.found, place, here)
    assert plan_cache.find(place, here, options) == plan.entry


def test_a_plan_that_no_longer_fits_is_not_used(plan):
    wide = on(plan, num_workers=64, prefetch_factor=2)
    here = facts(Waiting(), batch_size=8, shuffle=True)
    plan_cache.keep(wide.found, plan_cache.cached_plan_path(here), here)
    with pytest.raises(PlanError, match="does not fit this host now"):
        plan_cache.find(plan_cache.cached_plan_path(here), here, Settings(limits=plumb.Limits(max_workers=2)).options())


def test_a_folder_that_others_may_write_to_is_not_trusted(plan, cache):
    here = facts(Waiting(), batch_size=8, shuffle=True)
    plan_cache.keep(plan.found, plan_cache.cached_plan_path(here), here)
    os.chmod(cache, 0o777)
    with pytest.raises(PlanError, match="written to by others"):
        plan_cache.find(plan_cache.cached_plan_path(here), here, Settings().options())


@pytest.mark.parametrize("step", [None, 1000.0, lambda batch: None], ids=["alone", "rate", "function"])
def test_a_loader_without_batches_is_told_why(step):
    dropping = torch.utils.data.DataLoader(torch.arange(7), 8, drop_last=True)
    with pytest.raises(TuningError, match=r"Tensor has no batches: its dataset has 7 samples, fewer than batch_size=8"):
        plumb.tune(dropping, step=step, budget=BUDGET)
    with pytest.raises(TuningError, match="Tensor is empty: there is no sample to load"):
        plumb.tune(torch.arange(0), batch_size=8, step=step, budget=BUDGET)
