"""`plumb run`: the plan's configuration reaches the loaders it is for and no others, and changes no batch."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from script_parts import PREAMBLE

from plumb import plan
from plumb.plan import Config, LoaderPlan, Measured, Plan, Prediction
from plumb.runtime.apply import with_config

SHOW = """
def show(loader):
    print("loader", loader.num_workers, loader.prefetch_factor, loader.persistent_workers, loader.pin_memory)
    print("batches", [y.tolist() for _, y in loader])
"""


UNTUNED = Config()


def plan_for(config, name="loader", site="train.py:1", batch_size=8, script="train.py", baseline=UNTUNED):
    rate = (90.0, 110.0)
    loader = LoaderPlan(
        name=name,
        site=site,
        dataset="Numbers",
        batch_size=batch_size,
        baseline=Measured(baseline, 100.0, rate),
        tuned=Measured(config, 100.0, rate),
        predicted=Prediction(100.0, "cpu", {"cpu": 1.0}),
    )
    return Plan(script, {}, 1.0, 1.0, (loader,))


@pytest.fixture
def run(plumb, write, tmp_path):
    def run(made_for, code, *words):
        plan.write(made_for, tmp_path / "train.plumb.json")
        write("train.py", PREAMBLE + SHOW + code)
        return plumb("run", *words, "train.py")

    return run


CONFIG = Config(num_workers=2, prefetch_factor=4, persistent_workers=True)


def test_the_plan_reaches_its_loader_and_the_batches_stay_the_same(run):
    code = "loader = DataLoader(Numbers(), batch_size=8)\nshow(loader)\n"
    plain = run(plan_for(Config()), code)
    tuned = run(plan_for(CONFIG), code)
    assert "loader 0 None False False" in plain.out
    assert "loader 2 4 True False" in tuned.out
    assert plain.out.splitlines()[1] == tuned.out.splitlines()[1]
    assert tuned.err == ""


def test_what_has_no_meaning_without_workers_is_dropped(run):
    code = (
        "loader = DataLoader(Numbers(), batch_size=8, num_workers=2, prefetch_factor=3, persistent_workers=True,\n"
        "                    timeout=5, multiprocessing_context='fork')\nshow(loader)\n"
    )
    ran = run(plan_for(Config(), baseline=Config(2, 3, True)), code)
    assert "loader 0 None False False" in ran.out
    assert ran.code == 0


def test_torch_s_advice_on_worker_counts_is_not_given_for_a_count_that_was_measured(run):
    many = Config(num_workers=os.cpu_count() + 2, prefetch_factor=2)
    ran = run(plan_for(many), "loader = DataLoader(Numbers(), batch_size=8)\nshow(loader)\n")
    assert f"loader {many.num_workers} 2" in ran.out
    assert ran.err == ""


def test_an_edited_script_still_finds_its_loader_by_name(run):
    code = "\n\n\nloader = DataLoader(Numbers(), batch_size=8)\nshow(loader)\n"
    assert "loader 2 4 True False" in run(plan_for(CONFIG, site="train.py:1"), code).out


@pytest.mark.parametrize(
    ("made_for", "warning"),
    [
        (plan_for(CONFIG, name="other", site="elsewhere.py:1"), "loader (train.py:{line}) is not in the plan"),
        (plan_for(CONFIG, batch_size=16), "has batch size 8, the plan was made for 16"),
    ],
)
def test_a_loader_that_the_plan_does_not_fit_runs_as_it_is_with_one_line(run, made_for, warning):
    code = "loader = DataLoader(Numbers(), batch_size=8)\nshow(loader)\n"
    line = 1 + (PREAMBLE + SHOW).count("\n")
    ran = run(made_for, code)
    assert "loader 0 None False False" in ran.out
    assert warning.format(line=line) in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_plan_for_another_script_says_so(run):
    ran = run(plan_for(CONFIG, script="other.py"), "print('runs')")
    assert "was made for other.py" in ran.err
    assert "runs" in ran.out


def test_a_plan_may_be_long(run):
    long = dataclasses.replace(plan_for(CONFIG), written_files=tuple(f"/some/file/{n}" for n in range(20_000)))
    assert "loader 2 4 True False" in run(long, "loader = DataLoader(Numbers(), batch_size=8)\nshow(loader)\n").out


def test_no_plan_says_how_to_make_one(plumb, write):
    write("train.py", "print('never runs')")
    ran = plumb("run", "train.py")
    assert ran.code == 1
    assert "plumb tune" in ran.err
    assert "never runs" not in ran.out


def test_the_exit_code_and_the_traceback_are_the_script_s(run):
    assert run(plan_for(CONFIG), "sys.exit(5)").code == 5
    ran = run(plan_for(CONFIG), "def f():\n    raise KeyError('mine')\nf()")
    assert ran.code == 1
    assert "KeyError: 'mine'" in ran.err
    assert "/plumb/" not in ran.err


def test_signals_reach_the_script_itself(write, tmp_path):
    plan.write(plan_for(CONFIG), tmp_path / "train.plumb.json")
    write("train.py", "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
          "print('ready', flush=True)\ntime.sleep(60)\n")  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "plumb", "run", "train.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 3


def test_workers_see_a_dataset_that_changes_between_epochs(run):
    code = """
class Staged(Numbers):
    epoch = 0
    def __getitem__(self, index):
        return torch.zeros(1), self.epoch
dataset = Staged(16)
loader = DataLoader(dataset, batch_size=8)
for epoch in range(3):
    dataset.epoch = epoch
    print("epoch", epoch, [y.tolist() for _, y in loader])
"""
    ran = run(plan_for(CONFIG), code)
    for epoch in range(3):
        assert f"epoch {epoch} [{[epoch] * 8}, {[epoch] * 8}]" in ran.out
    assert ran.err.count("changes its dataset between epochs") == 1


ORDERS = """
torch.manual_seed(7)
for generator in (None, torch.Generator().manual_seed(3)):
    loader = DataLoader(Numbers(24), batch_size=8, shuffle=True, generator=generator{more})
    for epoch in range(4):
        print("epoch", epoch, [x[:, 0].int().tolist() for x, _ in loader], torch.rand(1).item())
"""


@pytest.mark.parametrize(
    ("users", "planned"),
    [
        (Config(), Config(2, 2)),
        (Config(), Config(2, 2, persistent_workers=True)),
        (Config(1, 2), Config(2, 2, persistent_workers=True)),
        (Config(1, 2, persistent_workers=True), Config()),
        (Config(1, 2, persistent_workers=True), Config(2, 4, persistent_workers=True)),
    ],
)
def test_every_epoch_has_the_order_that_it_has_without_plumb(users, planned, run, tmp_path):
    given = "".join(f", {name}={value!r}" for name, value in users.loader_arguments().items())
    ran = run(plan_for(planned, baseline=users), ORDERS.format(more=given))
    plain = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.out == plain.stdout
    assert len(set(ran.out.splitlines())) == 8, "each epoch has an order of its own"


def test_workers_persist_where_the_dataset_stays_as_it_is(run):
    code = """
class Where(Numbers):
    def __getitem__(self, index):
        return torch.zeros(1), os.getpid()
loader = DataLoader(Where(16), batch_size=8)
print("pids", len({pid for _ in range(3) for _, pids in loader for pid in pids.tolist()}))
"""
    assert "pids 2" in run(plan_for(CONFIG), code).out


def test_spawned_workers_import_the_script(run):
    code = """
if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    loader = DataLoader(Numbers(), batch_size=8)
    show(loader)
"""
    ran = run(plan_for(Config(num_workers=1, prefetch_factor=2, worker_torch_threads=2)), code)
    assert ran.code == 0, ran.err
    assert "loader 1 2 False False" in ran.out


given_arguments = st.fixed_dictionaries(
    {"dataset": st.just(range(4))},
    optional={
        "batch_size": st.integers(1, 8),
        "num_workers": st.integers(0, 4),
        "pin_memory": st.booleans(),
        "drop_last": st.booleans(),
        "timeout": st.integers(0, 3),
    },
)


@given(given_arguments, st.integers(0, 8), st.sampled_from([2, 4]), st.booleans())
def test_arguments_after_the_plan_make_a_loader(arguments, workers, prefetch, persistent):
    from torch.utils.data import DataLoader

    config = Config(workers, prefetch if workers else None, persistent and workers > 0)
    loader = DataLoader(**with_config(arguments, config))
    assert (loader.num_workers, loader.persistent_workers) == (config.num_workers, config.persistent_workers)
    assert loader.batch_size == arguments.get("batch_size", 1)
    assert loader.drop_last == arguments.get("drop_last", False)
