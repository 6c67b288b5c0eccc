"""Faults that end other people's trainings, each really caused: the tuning stays inside, says what it met, goes on."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from script_parts import LOOP, PREAMBLE

from plumb.core.plan import decode

MIB = 2**20
SCRIPT = (
    PREAMBLE + "{dataset}\nloader = DataLoader({made}, batch_size={batch_size}{more})" + LOOP.format(loader="loader")
)


def script(dataset="", made="Numbers(2000, seconds=0.002)", batch_size=8, more=""):
    return SCRIPT.format(dataset=dataset, made=made, batch_size=batch_size, more=more and ", " + more)


@contextmanager
def v1_group(controller: str, name: str, value: int) -> Iterator[Path]:
    """A version 1 control group with one limit, which is gone afterwards; skips where none can be made."""
    top = Path("/sys/fs/cgroup", controller)
    if not (top / "tasks").exists() or not os.access(top / "cgroup.procs", os.W_OK):
        pytest.skip(f"no writable version 1 {controller} hierarchy")
    group = top / f"plumb-fault-{os.getpid()}"
    group.mkdir()
    try:
        (group / name).write_text(str(value))
        yield group
    finally:
        for _ in range(100):
            if not (group / "cgroup.procs").read_text():
                break
            time.sleep(0.05)
        group.rmdir()


def start(folder, *words):
    command = [sys.executable, "-m", "plumb", "tune", *map(str, words), "train.py"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def tune(folder, *words, wrapper=(), before=None, timeout=150):
    """`plumb tune` in `folder`, started by the command `wrapper`; gives exit code, standard error and the plan."""
    command = [*wrapper, sys.executable, "-m", "plumb", "tune", *map(str, words), "train.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, preexec_fn=before)
    plan = folder / "train.plumb.json"
    assert "Traceback" not in done.stderr or done.returncode == 1, done.stderr
    return done.returncode, done.stderr, decode(plan.read_bytes()).loaders[0] if plan.exists() else None


def in_a_namespace(*mounts):
    """The command that runs another where these are mounted, for it alone; skips where that is not allowed."""
    shell = " && ".join(f"mount -t tmpfs -o size={size} tmpfs {where}" for where, size in mounts)
    if subprocess.run(["unshare", "-m", "sh", "-c", shell], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace for us here")
    return ("unshare", "-m", "sh", "-c", f'{shell} && cd . && exec "$@"', "sh")


def outcomes(loader):
    return {trial.outcome for trial in loader.trials}


def joining(group):
    return lambda: (group / "cgroup.procs").write_text(str(os.getpid()))


HUNGRY = """
observed = functools.partial(get_worker_info)
class Hungry(Numbers):
    index = None
    # Threads gain nothing, so that workers are tried on any host.
    lock = threading.Lock()
    def __getitem__(self, index):
        if self.index is None and observed() is not None and observed().num_workers >= 2:
            # As fast as data are read, which a busy host can watch.
            self.index = [time.sleep(0.005) or bytearray(os.urandom(1) * 2**22) for _ in range(250)]
        with self.lock:
            return super().__getitem__(index)
"""


@pytest.mark.slow
def test_workers_that_eat_memory_are_ended_before_the_group_s_limit(write, tmp_path):
    write("train.py", script(HUNGRY, "Hungry(20000, seconds=0.004)"))
    with v1_group("memory", "memory.limit_in_bytes", 2048 * MIB) as group:
        code, err, loader = tune(tmp_path, "--budget", 40, "--no-cache", before=joining(group))
        peak = int((group / "memory.max_usage_in_bytes").read_text())
        kills = (group / "memory.oom_control").read_text()
    assert code == 0, err
    ended = [trial for trial in loader.trials if trial.outcome.startswith("ended: ")]
    assert ended, [(trial.config, trial.outcome) for trial in loader.trials]
    assert all("of memory (cgroup v1" in trial.outcome and "left" in trial.outcome for trial in ended)
    assert "oom_kill 0" in kills or "oom_kill" not in kills
    assert peak <= 2048 * MIB
    # What needs more than a trial that came to the limit is not begun.
    assert all(after.config.num_workers <= before.config.num_workers for before, after in pairwise(ended))
    assert loader.tuned.config.num_workers < 2


STUCK = """
observed = functools.partial(get_worker_info)
class Stuck(Numbers):
    lock = threading.Lock()
    # Threads gain nothing, so that workers are what can.
    reading = threading.Lock()
    def __getitem__(self, index):
        if observed() is not None and observed().num_workers >= 2:
            self.lock.acquire()
            self.wait_for_ever()
        with self.reading:
            return super().__getitem__(index)
    def wait_for_ever(self):
        self.lock.acquire()
"""


@pytest.mark.slow
def test_a_worker_stuck_in_a_lock_ends_its_trial_and_says_where(write, tmp_path):
    write("train.py", script(STUCK, "Stuck(4000, seconds=0.004)"))
    code, err, loader = tune(tmp_path, "--budget", 20)
    assert code == 0, err
    # On a host that others keep busy there may be no time for such a trial.
    tried = [trial for trial in loader.trials if not trial.outcome.startswith("not tried: ")]
    stuck = [trial for trial in tried if trial.config.num_workers >= 2]
    assert all("train.py:" in trial.outcome and "wait_for_ever" in trial.outcome for trial in stuck), outcomes(loader)
    assert all("stuck" in trial.outcome or "no batch within" in trial.outcome for trial in stuck)
    assert loader.tuned.config.num_workers < 2


@pytest.mark.slow
def test_a_quota_of_one_cpu_is_what_the_tuning_goes_by(write, tmp_path):
    write("train.py", script())
    with v1_group("cpu", "cpu.cfs_quota_us", 100_000) as group:
        code, err, loader = tune(tmp_path, "--budget", 4, before=joining(group))
    assert code == 0, err
    assert loader.model["situation"]["limits"]["cpus"] == 1.0


LARGE = """
class Large(Numbers):
    def __getitem__(self, index):
        time.sleep(0.004)
        return torch.zeros(65536), index % 3
model = nn.Linear(65536, 3)
optimizer = Descent(model.parameters(), lr=1e-4)
"""


@pytest.mark.slow
def test_a_small_shm_is_never_overrun(write, tmp_path):
    # A batch takes 4 MiB: one worker with two batches ahead just fits.
    write("train.py", script(LARGE, "Large(4000)", batch_size=16))
    wrapper = in_a_namespace(("/dev/shm", "16m"))
    code, err, loader = tune(tmp_path, "--budget", 20, "--no-cache", wrapper=wrapper)
    assert code == 0, err
    assert loader.model["situation"]["limits"]["shm_bytes"] <= 16 * MIB
    assert not any("bus error" in outcome.lower() or "shared memory (" in outcome for outcome in outcomes(loader))
    assert "Bus error" not in err
    assert loader.tuned.config.batches_in_flight <= 2


@pytest.mark.slow
def test_few_open_files_are_enough(write, tmp_path):
    apart = """
class Apart(Numbers):
    def __getitem__(self, index):
        time.sleep(0.004)
        return [torch.zeros(8)], index % 3
def apart(samples):
    return [x for [x], _ in samples], torch.tensor([y for _, y in samples])
class Joined(nn.Linear):
    def forward(self, parts):
        return super().forward(torch.stack(parts))
model = Joined(8, 3)
optimizer = Descent(model.parameters(), lr=1e-4)
"""
    write("train.py", script(apart, "Apart(4000)", batch_size=16, more="collate_fn=apart"))
    limit = ("sh", "-c", 'ulimit -n 128 && exec "$@"', "sh")
    code, err, loader = tune(tmp_path, "--budget", 20, "--no-cache", wrapper=limit)
    assert code == 0, err
    assert loader.model["situation"]["limits"]["open_files"] == 128
    assert "Too many open files" not in err
    assert not any("open files" in outcome.lower() for outcome in outcomes(loader) if outcome.startswith("failed"))


DYING = """
observed = functools.partial(get_worker_info)
class Dying(Numbers):
    # Threads gain nothing, so that workers are tried on any host.
    lock = threading.Lock()
    def __getitem__(self, index):
        if observed() is not None and observed().num_workers >= 2 and index % 50 == 49:
            {death}
        with self.lock:
            return super().__getitem__(index)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("death", "signal"),
    [
        ("import signal; signal.raise_signal(9)", "Killed"),
        pytest.param("import ctypes; ctypes.string_at(0)", "Segmentation fault", marks=pytest.mark.nightly),
    ],
)
def test_a_worker_that_dies_ends_its_trial_and_nothing_else(death, signal, write, tmp_path, monkeypatch):
    write("train.py", script(DYING.format(death=death), "Dying(4000, seconds=0.004)"))
    # A short path: workers make sockets in there.
    with tempfile.TemporaryDirectory() as temporary:
        monkeypatch.setenv("TMPDIR", temporary)
        code, err, loader = tune(tmp_path, "--budget", 24, "--no-cache")
        assert not list(Path(temporary).glob("pymp-*"))
    assert code == 0, err
    # On a host that others keep busy there may be no time for such a trial.
    tried = [trial for trial in loader.trials if not trial.outcome.startswith("not tried: ")]
    died = [trial for trial in tried if trial.config.num_workers >= 2]
    assert all(trial.outcome.startswith("failed: ") for trial in died), outcomes(loader)
    # A worker that hands over a batch to one that dies may be the first to be missed.
    assert not died or any(signal in trial.outcome for trial in died), outcomes(loader)
    assert loader.tuned.config.num_workers < 2


def test_a_dataset_that_raises_on_its_thousandth_sample_raises_it_to_the_user(write, tmp_path):
    broken = """
class Broken(Numbers):
    def __getitem__(self, index):
        if index >= 999:
            raise ValueError("sample 999 is broken")
        return super().__getitem__(index)
"""
    write("train.py", script(broken, "Broken(100_000, seconds=0.0)", batch_size=50))
    code, err, loader = tune(tmp_path, "--budget", 15)
    assert "plumb itself failed" not in err
    assert code == 1
    assert "ValueError: sample 999 is broken" in err
    assert loader is None


@pytest.mark.slow
def test_a_full_disk_costs_the_plan_and_says_so(write, tmp_path):
    (tmp_path / "small").mkdir()
    write("train.py", script())
    wrapper = in_a_namespace((tmp_path / "small", "4k"))
    code, err, loader = tune(tmp_path, "--budget", 2, "--output", "small/plan.json", wrapper=wrapper)
    assert code == 1
    assert "small/plan.json: the plan cannot be written (No space left on device)" in err
    assert "Traceback" not in err
    assert loader is None


@pytest.mark.slow
def test_two_tunings_at_once_both_end_well(write, tmp_path):
    write("train.py", script())
    tunings = [start(tmp_path, "--budget", 8), start(tmp_path, "--budget", 8)]
    for tuning in tunings:
        _, err = tuning.communicate(timeout=180)
        assert tuning.returncode == 0, err
    assert decode((tmp_path / "train.plumb.json").read_bytes()).loaders
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.plumb.json", "train.py"]


STREAM = """
class Stream(IterableDataset):
    def __iter__(self):
        info = get_worker_info()
        for index in {numbers}:
            time.sleep(0.004)
            yield torch.full((8,), float(index)), index % 3
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        pytest.param("range(96)", "does not ask which worker", id="unsharded"),
        pytest.param("range(info.id if info else 0, 96)", "samples in", id="half sharded", marks=pytest.mark.nightly),
        pytest.param(
            "itertools.count(info.id if info else 0)", "no time to compare", id="infinite", marks=pytest.mark.nightly
        ),
    ],
)
def test_iterable_datasets_that_are_not_shared_out_get_no_more_workers(numbers, says, write, tmp_path):
    write("train.py", script(STREAM.format(numbers=numbers), "Stream()"))
    code, err, loader = tune(tmp_path, "--budget", 30, "--allow-reorder")
    assert code == 0, err
    if not any("nothing to gain" in note for note in loader.notes):
        assert any(says in note for note in loader.notes), loader.notes
    others = [trial for trial in loader.trials if trial.outcome != "measured, to calibrate"]
    assert {trial.config.num_workers for trial in others} <= {0, 1}
    # One worker has every sample to itself, and may be worth it where the loop computes meanwhile.
    assert loader.tuned.config.num_workers in (0, 1)
    if loader.tuned.config.num_workers and loader.end_to_end.gain is not None:
        assert loader.end_to_end.gain.ratio > 1


@pytest.mark.slow
def test_an_open_file_is_opened_again_by_each_worker(write, tmp_path):
    rows = """
class Rows(Numbers):
    def __init__(self):
        super().__init__(4000)
        with open("rows.bin", "wb") as file:
            file.write(bytes(index % 251 for index in range(4000)))
        self.file = open("rows.bin", "rb", buffering=0)
    def __getitem__(self, index):
        self.file.seek(index)
        sample = super().__getitem__(index)
        if self.file.read(1) != bytes([index % 251]):
            raise RuntimeError("read the record of another worker")
        return sample
"""
    write("train.py", script(rows, "Rows()"))
    code, err, loader = tune(tmp_path, "--budget", 10)
    assert code == 0, err
    assert not any("record of another" in trial.outcome for trial in loader.trials)
    assert any(trial.config.num_workers for trial in loader.trials)
    assert not any("holds an open file" in note for note in loader.notes), loader.notes


@pytest.mark.slow
def test_workers_are_spawned_where_a_fork_would_share_what_the_dataset_leaves_out(write, tmp_path):
    code = """
import sqlite3

class Rows(Numbers):
    def __init__(self):
        super().__init__(4000, seconds=0.004)
        self.rows = sqlite3.connect(":memory:")
    def __getstate__(self):
        return self.__dict__ | {"rows": None}
    def __getitem__(self, index):
        if self.rows is None:
            self.rows = sqlite3.connect(":memory:")
        (value,) = self.rows.execute("select ?", (index % 100,)).fetchone()
        return super().__getitem__(index)[0] + value, index % 3

if __name__ == "__main__":
    loader = DataLoader(Rows(), batch_size=8)
    for epoch in range(1000):
        for x, y in loader:
            train_step(x, y)
"""
    write("train.py", PREAMBLE + code)
    code, err, loader = tune(tmp_path, "--budget", 20)
    assert code == 0, err
    by_workers = [trial for trial in loader.trials if trial.config.num_workers]
    assert {trial.config.start_method for trial in by_workers} == {"spawn"}
    assert any(trial.samples_per_second for trial in by_workers), [trial.outcome for trial in by_workers]
    assert any("can be sent to others: workers are started by spawn" in note for note in loader.notes), loader.notes
