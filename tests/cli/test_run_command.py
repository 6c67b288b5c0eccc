"""`plumb run`: the plan's configuration reaches the loaders it is for and no others, and changes no batch."""

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from script_parts import PREAMBLE

from plumb.core import plan
from plumb.core.config import Config
from plumb.core.plan import LoaderResult, Measured, Plan, Prediction
from plumb.runtime.iterator_setup import exchanged
from plumb.runtime.loader_attributes import plans_attributes, set_attributes, users_attributes
from plumb.runtime.planned_loader import attributes_of

SHOW = """
def show(loader):
    print("loader", loader.num_workers, loader.prefetch_factor, loader.persistent_workers, loader.pin_memory)
    print("batches", [y.tolist() for _, y in loader])
"""


UNTUNED = Config()


def entry(config, name="loader", site="train.py:1", batch_size=8, baseline=UNTUNED):
    rate = (90.0, 110.0)
    return LoaderResult(
        name=name,
        site=site,
        dataset="Numbers",
        batch_size=batch_size,
        baseline=Measured(baseline, 100.0, rate),
        tuned=Measured(config, 100.0, rate),
        predicted=Prediction(100.0, "cpu", {"cpu": 1.0}),
    )


def plan_for(*entries, script="train.py"):
    return Plan(script, {}, 1.0, 1.0, entries)


@pytest.fixture
def run(plumb, write, tmp_path):
    def run(made_for, code):
        plan.write(made_for, tmp_path / "train.plumb.json")
        write("train.py", code)
        return plumb("run", "train.py")

    return run


CONFIG = Config(num_workers=2, prefetch_factor=4, persistent_workers=True)
MANY = Config(num_workers=os.cpu_count() + 2, prefetch_factor=2)

# One script of many loaders, each in its own section of what it prints; the plan says another line of each.
SECTIONS = {
    "fitted": "fitted = DataLoader(Numbers(), batch_size=8)\nshow(fitted)",
    "own_workers": """
own_workers = DataLoader(Numbers(), batch_size=8, num_workers=2, prefetch_factor=3, persistent_workers=True,
                         timeout=5, multiprocessing_context="fork")
show(own_workers)
""",
    "many_workers": "many_workers = DataLoader(Numbers(), batch_size=8)\nshow(many_workers)",
    "unplanned": "unplanned = DataLoader(Numbers(), batch_size=8)\nshow(unplanned)",
    "other_size": "other_size = DataLoader(Numbers(), batch_size=8)\nshow(other_size)",
    "changing": """
class Staged(Numbers):
    epoch = 0
    def __getitem__(self, index):
        return torch.zeros(1), self.epoch
dataset = Staged(16)
changing = DataLoader(dataset, batch_size=8)
for epoch in range(3):
    dataset.epoch = epoch
    print("epoch", epoch, [y.tolist() for _, y in changing])
""",
    "staying": """
observed = functools.partial(os.getpid)
class Where(Numbers):
    def __getitem__(self, index):
        return torch.zeros(1), observed()
staying = DataLoader(Where(16), batch_size=8)
pids = {pid for epoch in range(3) for _, y in staying for pid in y.tolist()}
print("pids", len(pids))
""",
}
CODE = PREAMBLE + SHOW + "".join(f"\nprint('# {name}')\n{code}\n" for name, code in SECTIONS.items())
PLANNED = dataclasses.replace(
    plan_for(
        entry(CONFIG, "fitted"),
        entry(Config(), "own_workers", baseline=Config(2, 3, True)),
        entry(MANY, "many_workers"),
        entry(CONFIG, "other", site="elsewhere.py:1"),
        entry(CONFIG, "other_size", batch_size=16),
        entry(CONFIG, "changing"),
        entry(CONFIG, "staying"),
    ),
    # A plan may be long.
    written_files=tuple(f"/some/file/{number}" for number in range(20_000)),
)


def by_section(printed):
    return dict(part.split("\n", 1) for part in printed.split("# ")[1:])


def _both_ways(folder):
    """Standard output and error of a plain run of the script, and of one on the plan."""
    (folder / "train.py").write_text(CODE)
    plan.write(PLANNED, folder / "train.plumb.json")
    ways = []
    for command in ([sys.executable, "train.py"], [sys.executable, "-m", "plumb", "run", "train.py"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=120)
        ways.append((done.stdout, done.stderr))
    return ways


@pytest.fixture
def plain(once):
    """What each section prints without plumb."""
    return by_section(once("run_both_ways", _both_ways)[0][0])


@pytest.fixture
def ran(once):
    """What each section prints on the plan."""
    return by_section(once("run_both_ways", _both_ways)[1][0])


@pytest.fixture
def said(once):
    """The lines on standard error in the run on the plan."""
    return once("run_both_ways", _both_ways)[1][1].splitlines()


@pytest.mark.slow
def test_the_plan_reaches_its_loader_and_the_batches_stay_the_same(plain, ran):
    assert "loader 0 None False False" in plain["fitted"]
    assert "loader 2 4 True False" in ran["fitted"]
    for name in ("fitted", "own_workers", "many_workers", "unplanned", "other_size"):
        assert ran[name].splitlines()[1] == plain[name].splitlines()[1]


def test_nothing_is_said_of_loaders_that_the_plan_fits(said):
    assert len(said) == 3
    for name in ("fitted", "own_workers", "many_workers", "staying"):
        assert not any(name in line for line in said)


def test_what_has_no_meaning_without_workers_is_dropped(ran):
    assert "loader 0 None False False" in ran["own_workers"]


def test_torch_s_advice_on_worker_counts_is_not_given_for_a_count_that_was_measured(ran, said):
    assert f"loader {MANY.num_workers} 2" in ran["many_workers"]
    assert not any("worker processes" in line for line in said)


def test_an_edited_script_still_finds_its_loader_by_name(ran):
    assert CODE.splitlines().index(SECTIONS["fitted"].splitlines()[0]) > 1, "it is not where the plan says"
    assert "loader 2 4 True False" in ran["fitted"]


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("unplanned", "unplanned (train.py:{line}) is not in the plan"),
        ("other_size", "has batch size 8, the plan was made for 16"),
    ],
)
def test_a_loader_that_the_plan_does_not_fit_runs_as_it_is_with_one_line(name, warning, ran, said):
    line = 1 + CODE.splitlines().index(SECTIONS[name].splitlines()[0])
    assert "loader 0 None False False" in ran[name]
    (its,) = (each for each in said if f"{name} (train.py:{line})" in each)
    assert warning.format(line=line) in its


def test_a_plan_for_another_script_says_so(run):
    ran = run(plan_for(entry(CONFIG), script="other.py"), "print('runs')")
    assert "was made for other.py" in ran.err
    assert "runs" in ran.out


def test_no_plan_says_how_to_make_one(plumb, write):
    write("train.py", "print('never runs')")
    ran = plumb("run", "train.py")
    assert ran.code == 1
    assert "plumb tune" in ran.err
    assert "never runs" not in ran.out


def test_the_exit_code_and_the_traceback_are_the_script_s(run):
    assert run(plan_for(entry(CONFIG)), "import sys\nsys.exit(5)").code == 5
    ran = run(plan_for(entry(CONFIG)), PREAMBLE + "def f():\n    raise KeyError('mine')\nf()")
    assert ran.code == 1
    assert "KeyError: 'mine'" in ran.err
    assert "/plumb/" not in ran.err


def test_signals_reach_the_script_itself(write, tmp_path):
    plan.write(plan_for(entry(CONFIG)), tmp_path / "train.plumb.json")
    write("train.py", "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
          "print('ready', flush=True)\ntime.sleep(60)\n")  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "plumb", "run", "train.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 3


def test_workers_see_a_dataset_that_changes_between_epochs(ran, said):
    for epoch in range(3):
        assert f"epoch {epoch} [{[epoch] * 8}, {[epoch] * 8}]" in ran["changing"]
    assert sum("changes Staged.epoch between epochs" in line for line in said) == 1


def test_workers_persist_where_the_dataset_stays_as_it_is(ran):
    assert "pids 2" in ran["staying"]


ORDERS = """
torch.manual_seed(7)
for generator in (None, torch.Generator().manual_seed(3)):
    {name} = DataLoader(Numbers(24), batch_size=8, shuffle=True, generator=generator{more})
    for epoch in range(4):
        print("epoch", epoch, [x[:, 0].int().tolist() for x, _ in {name}], torch.rand(1).item())
"""
# The user's configuration, and the plan's.
RECONFIGURED = {
    "to_workers": (Config(), Config(2, 2)),
    "to_workers_that_persist": (Config(), Config(2, 2, persistent_workers=True)),
    "to_more_that_persist": (Config(1, 2), Config(2, 2, persistent_workers=True)),
    "from_one_that_persists": (Config(1, 2, persistent_workers=True), Config()),
    "from_one_to_more": (Config(1, 2, persistent_workers=True), Config(2, 4, persistent_workers=True)),
}


def _orders(folder):
    """What the loaders of `RECONFIGURED` print without plumb, and on a plan."""
    code = PREAMBLE
    for name, (users, _) in RECONFIGURED.items():
        given = "".join(f", {argument}={value!r}" for argument, value in users.loader_arguments().items())
        code += f"\nprint('# {name}')\n" + ORDERS.format(name=name, more=given)
    (folder / "train.py").write_text(code)
    entries = [entry(planned, name, baseline=users) for name, (users, planned) in RECONFIGURED.items()]
    plan.write(plan_for(*entries), folder / "train.plumb.json")
    return [
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=120).stdout
        for command in ([sys.executable, "train.py"], [sys.executable, "-m", "plumb", "run", "train.py"])
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECONFIGURED)
def test_every_epoch_has_the_order_that_it_has_without_plumb(name, once):
    plain, ran = (by_section(printed)[name] for printed in once("orders", _orders))
    assert ran == plain
    assert len(set(ran.splitlines())) == 8, "each epoch has an order of its own"


@pytest.mark.slow
def test_spawned_workers_import_the_script(run):
    code = """
if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    loader = DataLoader(Numbers(), batch_size=8)
    show(loader)
"""
    config = Config(num_workers=1, prefetch_factor=2, worker_torch_threads=2)
    ran = run(plan_for(entry(config)), PREAMBLE + SHOW + code)
    assert ran.code == 0, ran.err
    assert "loader 1 2 False False" in ran.out


def method_of(loader):
    return loader.multiprocessing_context.get_start_method() if loader.multiprocessing_context else None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_made_before_has_the_plan_s_start_method_for_an_epoch(workers):
    from torch.utils.data import DataLoader

    loader = DataLoader(range(4), num_workers=workers)
    config = Config(num_workers=1, prefetch_factor=2, start_method="spawn")
    with exchanged(loader, attributes_of(loader, config)):
        assert method_of(loader) == "spawn"
    assert (loader.num_workers, method_of(loader)) == (workers, None)


@pytest.mark.slow
def test_a_plan_says_how_workers_are_started(run):
    code = """
if __name__ == "__main__":
    loader = DataLoader(Numbers(), batch_size=8)
    print("started by", loader.multiprocessing_context.get_start_method())
    show(loader)
"""
    config = Config(num_workers=1, prefetch_factor=2, start_method="spawn")
    ran = run(plan_for(entry(config)), PREAMBLE + SHOW + code)
    assert ran.code == 0, ran.err
    assert "started by spawn" in ran.out
    assert "loader 1 2 False False" in ran.out


CHECKED = """
train = DataLoader(Numbers(64), batch_size=8)
batches = [y.tolist() for epoch in range(2) for _, y in train]
print(len(batches), batches[:8] == batches[8:], torch.rand(1).item())
"""


@pytest.mark.slow
def test_the_share_of_batches_that_are_checked_is_the_user_s(plumb, write, tmp_path, monkeypatch):
    write("train.py", PREAMBLE + "torch.manual_seed(0)\n" + CHECKED)
    plan.write(plan_for(entry(Config(1, 2), name="train")), tmp_path / "train.plumb.json")
    quiet, asked = plumb("run", "train.py"), plumb("run", "--check", "0.5", "train.py")
    assert quiet.out == asked.out
    assert quiet.out.startswith("16 True")
    assert quiet.err == ""
    assert asked.err == "plumb: 10 batches of train made a second time, plainly, and compared: no difference\n"
    refused = plumb("run", "--check", "often", "train.py")
    assert refused.code == 2
    assert "'often' is no share of batches to check" in refused.err
    monkeypatch.setenv("PLUMB_CHECK", "often")
    refused = plumb("run", "train.py")
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
    assert "give a number from 0 (none) to 1 (all)" in refused.err


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


@given(given_arguments, st.integers(0, 8), st.sampled_from([2, 4]), st.booleans(), st.sampled_from([None, "spawn"]))
def test_a_loader_takes_the_plan_s_arguments_and_gives_them_back(arguments, workers, prefetch, persistent, method):
    from torch.utils.data import DataLoader

    arguments = {**arguments, "timeout": arguments.get("timeout", 0) if arguments.get("num_workers") else 0}
    loader = DataLoader(**arguments)
    config = Config(workers, prefetch if workers else None, persistent and workers > 0, start_method=method)
    before, users = dict(vars(loader)), users_attributes(loader, config)
    set_attributes(loader, plans_attributes(loader, config))
    assert method_of(loader) == (method if workers else None)
    assert (loader.num_workers, loader.persistent_workers) == (config.num_workers, config.persistent_workers)
    again = DataLoader(range(4), num_workers=loader.num_workers, timeout=loader.timeout,
                       prefetch_factor=loader.prefetch_factor, persistent_workers=loader.persistent_workers,
                       multiprocessing_context=loader.multiprocessing_context)  # fmt: skip
    assert again.num_workers == loader.num_workers, "what a library makes of its arguments"
    set_attributes(loader, users)
    assert vars(loader) == before


@pytest.mark.slow
@pytest.mark.parametrize("is_killed", [False, True], ids=["left", "killed"])
@pytest.mark.parametrize("config", [CONFIG, Config(2, 2)], ids=["lasting", "of an epoch"])
def test_workers_that_a_plan_adds_leave_no_folder_of_sockets(config, is_killed, write, tmp_path, monkeypatch):
    # Torch's workers make one each, and lose it if they end while they make it.
    folder = Path(tempfile.mkdtemp(prefix="run-"))  # a short path, as sockets need it
    monkeypatch.setenv("TMPDIR", str(folder))
    plan.write(plan_for(entry(config)), tmp_path / "train.plumb.json")
    code = """
import signal
loader = DataLoader(Numbers(), batch_size=8)
for number in range(20):
    batches = iter(loader)
    next(batches)
print(os.listdir(os.environ["TMPDIR"]) != [], flush=True)
"""
    write("train.py", PREAMBLE + code + "os.kill(os.getpid(), signal.SIGKILL)\n" * is_killed)
    ran = subprocess.run(
        [sys.executable, "-m", "plumb", "run", "train.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (-signal.SIGKILL if is_killed else 0, "True\n"), ran.stderr
    until = time.monotonic() + 20
    while list(folder.iterdir()) and time.monotonic() < until:
        time.sleep(0.1)
    assert not list(folder.iterdir())
    folder.rmdir()
