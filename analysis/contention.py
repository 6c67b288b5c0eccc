"""Less of the machine than there is: fewer CPUs, a quota, and other processes that keep CPUs busy."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from analysis.images import ROOT

# A load that changes every few seconds.
CHANGING = -1.0
_PROCESSES = 2
# One process of a load, of which all together take so many CPUs: it computes for a share of each period.
_SHARE = """
import random, sys, time
from plumb.host.process_control import end_with_parent
end_with_parent()
load, processes, number, seed = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
levels, periods = random.Random(seed), random.Random(1000 * seed + number)
level, until = load, 0.0
while True:
    if load < 0 and time.monotonic() >= until:
        level, until = levels.choice((0.0, 0.5, 1.0, 1.5)), time.monotonic() + levels.uniform(1.0, 5.0)
    period = periods.uniform(0.01, 0.05)
    begun = time.monotonic()
    while time.monotonic() - begun < period * level / processes:
        pass
    time.sleep(max(0.0, period - (time.monotonic() - begun)))
"""
_GROUPS, _PERIOD_US = Path("/sys/fs/cgroup"), 100_000
_BURN = "from plumb.host.process_control import end_with_parent; end_with_parent()\nwhile True: pass"


def keep_to_cpus(count: int, module: str) -> None:
    """Start `module` anew, with its arguments, on `count` CPUs, unless it has no more already.

    Torch sizes its pools of threads when it is imported, so the process must have its CPUs from its start.
    """
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) > count:
        os.sched_setaffinity(0, mine[:count])
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


@contextlib.contextmanager
def one_core_burnt() -> Iterator[None]:
    """Another process that never rests, for as long as this is entered."""
    process = subprocess.Popen([sys.executable, "-c", _BURN], cwd=ROOT)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def background_load(cpus: float, seed: int) -> Iterator[None]:
    """Other processes that take so many CPUs, or a changing share, for as long as this is entered."""
    command = [sys.executable, "-c", _SHARE, str(cpus), str(_PROCESSES)]
    numbers = range(_PROCESSES if cpus else 0)
    processes = [subprocess.Popen([*command, str(number), str(seed)], cwd=ROOT) for number in numbers]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def cpu_quota(cpus: float) -> Iterator[None]:
    """Keep this process and its children to so many CPUs by a cgroup, which needs root."""
    is_first_version = (_GROUPS / "cpu").is_dir()
    parent = _GROUPS / "cpu" if is_first_version else _GROUPS
    group = parent / f"plumb-analysis-{os.getpid()}"
    group.mkdir()
    quota = int(cpus * _PERIOD_US)
    try:
        if is_first_version:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
