"""A process that has torch and plumb imported, and forks for each script that it is asked to run.

It reads requests on standard input and answers on standard output, one JSON object a line. The process that it forks
runs a script to the end of the interpreter, as `python SCRIPT` and `plumb run` would.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

_IMPORTED = (
    "torch.utils.data",
    "plumb.script.child",
    "plumb.script.plan_handler",
    "plumb.runtime.planned_loader",
    "tests.parts.forced",
)
_OUT, _ERR, _WORKERS = "stdout", "stderr", "workers"
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Done:
    """A command that has ended; `code` is None where it had to be killed because its time was up.

    `workers` counts the processes that the script's own process has started with multiprocessing.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    workers: int = 0


class Zygote:
    """The other side: starts the process, and has scripts run in it; `imported` are modules that most of them need."""

    def __init__(self, *imported: str) -> None:
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.random_scripts.zygote", *imported],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            # Threads of several scripts at once would only hold each other up.
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )

    def run(self, way: str, script: str, folder: Path, timeout_seconds: float, **options: Any) -> Done:
        """Runs a script in `folder` in one of the ways: "plain", "record" or "run"."""
        request = {"way": way, "script": script, "folder": str(folder), "timeout": timeout_seconds, **options}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        out, err, workers = (_taken(folder / name) for name in (_OUT, _ERR, _WORKERS))
        return Done(answer["code"], out, err, answer["seconds"], len(workers))

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def _taken(file: Path) -> str:
    """What a file holds, which is removed."""
    text = file.read_text(errors="replace")
    file.unlink()
    return text


def processes_in(folder: Path) -> list[int]:
    """The processes whose working folder is `folder` or inside of it."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            where = os.readlink(f"/proc/{name}/cwd")
        except OSError:
            continue
        if where == str(folder) or where.startswith(f"{folder}/"):
            found.append(int(name))
    return found


def kill_all(folder: Path) -> None:
    """Kills the processes that work in `folder`."""
    for process in processes_in(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, 9)


def _become(request: dict[str, Any]) -> Callable[[], None]:
    """Makes this process that of a script; returns what is to be called where no frame of ours is left."""
    from plumb.script import child
    from plumb.tuning.child_orders import Orders, Target

    os.setsid()
    os.chdir(request["folder"])
    os.environ.update(request.get("environ", {}), PLUMB="off")
    tempfile.tempdir = None
    _count_workers(os.open(_WORKERS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    for number, name in ((0, os.devnull), (1, _OUT), (2, _ERR)):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    target = Target(request["script"], False)

    def plain() -> None:
        _raise(child.run_script(target, []))

    def recorded() -> None:
        from plumb.core.config import Config
        from tests.parts.forced import record

        record(request["script"], [], Path(request["plan"]), msgspec.convert(request["config"], Config))

    def run() -> None:
        child._run(Orders(target, plan_file=request["plan"]), [])

    return {"plain": plain, "record": recorded, "run": run}[request["way"]]


def _count_workers(file: int) -> None:
    """Writes a letter to `file` for each process that this one starts with multiprocessing."""
    from multiprocessing.process import BaseProcess

    start, owner = BaseProcess.start, os.getpid()

    def counted(process: BaseProcess) -> None:
        if os.getpid() == owner:
            os.write(file, b"w")
        start(process)

    BaseProcess.start = counted  # type: ignore[method-assign]


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error


def _wait(process: int, request: dict[str, Any]) -> dict[str, Any]:
    begun = time.monotonic()
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - begun}
        if time.monotonic() - begun > request["timeout"]:
            kill_all(Path(request["folder"]))
            os.waitpid(process, 0)
            return {"code": None, "seconds": time.monotonic() - begun}
        time.sleep(_POLL_SECONDS)


def _serve() -> Callable[[], None]:
    """Answers requests until there are no more; in a forked process, returns what that is to do."""
    for name in (*_IMPORTED, *sys.argv[1:]):
        importlib.import_module(name)

    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    for line in requests:
        request = json.loads(line)
        process = os.fork()
        if not process:
            return _become(request)
        answers.write(json.dumps(_wait(process, request)) + "\n")
        answers.flush()
    return lambda: None


if __name__ == "__main__":
    _serve()()
