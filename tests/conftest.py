"""What the tests share: running plumb's commands on whole scripts, as a user would."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forked_commands import ForkedCommands
from hypothesis import settings

from plumb.core.plan import LoaderResult, Plan, decode

SCRIPTS = Path(__file__).parent / "scripts"
_TIMEOUT_SECONDS = 180

# Hundreds of processes import plumb here: it is compiled for all of them, not by each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What CI runs are the same examples each time, so that no change is blamed for what another run would have found.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@dataclass(frozen=True)
class Ran:
    """A command that has ended, and the plan that a tuning left, if any."""

    code: int
    out: str
    err: str
    plan: Plan | None

    def loader(self, name: str) -> LoaderResult:
        """The plan's entry for a loader."""
        assert self.plan is not None, self.err
        found = {loader.name: loader for loader in self.plan.loaders}
        assert name in found, f"{name} is not among {sorted(found)}"
        return found[name]


Plumb = Callable[..., Ran]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Any]:
    """What a function makes in a folder, made by one of the processes that run tests, for all of them.

    What it returns must be picklable.
    """
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent

    def get(name: str, make: Callable[[Path], Any]) -> Any:
        result = common / f"{name}.pickle"
        with open(common / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not result.exists():
                (common / name).mkdir()
                result.write_bytes(pickle.dumps(make(common / name)))
            return pickle.loads(result.read_bytes())

    return get


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own: what one tuning keeps is not for another."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _alone_where_quiet_is_needed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Keeps other tests from running beside one that is marked `quiet`, and beside a second try.

    Whoever wants to begin passes a turnstile; a quiet test keeps that shut while it waits for the others, and while it
    runs.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    is_quiet = request.node.get_closest_marker("quiet") is not None or getattr(request.node, "execution_count", 1) > 1
    folder = tmp_path_factory.getbasetemp().parent
    with open(folder / "turnstile", "w") as turnstile, open(folder / "floor", "w") as floor:
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        fcntl.flock(floor, fcntl.LOCK_EX if is_quiet else fcntl.LOCK_SH)
        if not is_quiet:
            fcntl.flock(turnstile, fcntl.LOCK_UN)
        yield
        # Workers that a failed test leaves behind have these files, too: closing them here would not open the locks.
        fcntl.flock(turnstile, fcntl.LOCK_UN)
        fcntl.flock(floor, fcntl.LOCK_UN)


def pytest_xdist_auto_num_workers() -> int:
    """Whole scripts wait as much as they compute: two for each of two cores keep these busy."""
    return 4


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Quiet tests come first, where none waits for another kind; then the long ones, so that none is the last.

    A module's first test that needs something made `once` comes before these, and its others at the very end: by then
    it is made, and nobody waits for it.

    What is measured hangs on the time that a test gets. One that fails beside others is tried once more, alone; the
    summary lists it as rerun, so that nobody overlooks a fault that comes and goes.
    """
    if "nightly" not in config.getoption("markexpr"):
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in set(nightly)]
    for item in items:
        item.add_marker(pytest.mark.flaky(reruns=1))
    makers = {item.path: item for item in reversed(items) if "once" in getattr(item, "fixturenames", ())}
    items.sort(
        key=lambda item: (
            not item.get_closest_marker("quiet"),
            item is not makers.get(item.path),
            "once" in getattr(item, "fixturenames", ()),
            not item.get_closest_marker("slow"),
        )
    )


@pytest.fixture(scope="session")
def commands() -> Iterator[ForkedCommands]:
    """Runs commands as forks of one process."""
    started = ForkedCommands()
    yield started
    started.close()


@pytest.fixture
def plumb(tmp_path: Path, commands: ForkedCommands) -> Plumb:
    """Runs `plumb COMMAND ...` in a fresh folder; a script's name stands for a copy of it there.

    It is a fork of a process that has imported torch. What depends on the environment that `/proc` shows of a process,
    as plumb's mark of a tuning's processes, or on the start of an interpreter, needs one of its own (`is_fork=False`).
    """

    def run(*words: str | float, timeout: float = _TIMEOUT_SECONDS, is_fork: bool = True) -> Ran:
        told = [*map(str, words)]
        if is_fork:
            done = commands.run(told, tmp_path, os.environ, timeout=timeout)
        else:
            command = [sys.executable, "-m", "plumb", *told]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=timeout)
        plans = sorted(tmp_path.glob("*.plumb.json")) if words[0] == "tune" else []
        plan = decode(plans[0].read_bytes()) if plans else None
        return Ran(done.returncode, done.stdout, done.stderr, plan)

    return run


@pytest.fixture
def tuning(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `plumb tune --budget SECONDS train.py` as a terminal would, where Ctrl-C can reach it."""

    def start(budget_seconds: int, stdout: int, stderr: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "plumb", "tune", "--budget", str(budget_seconds), "train.py"],
            cwd=tmp_path,
            stdout=stdout,
            stderr=stderr,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    return start


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Copies a script of tests/scripts into the test's own folder, and gives its name there."""

    def copy(name: str) -> str:
        source = SCRIPTS / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name)
        else:
            shutil.copy(source, tmp_path / name)
        return name

    return copy


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Writes a script into the test's own folder, and gives its name."""

    def put(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return name

    return put
