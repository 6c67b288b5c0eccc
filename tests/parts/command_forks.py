"""Runs many scripts from one process that has imported torch and plumb already: each in a fork of it.

Reads jobs as JSON lines from standard input, and answers each with its exit code. A job's own standard streams are
files. Nothing here stands in for plumb: only the start of the interpreter, and its imports, are saved.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import io
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from types import SimpleNamespace

# What takes long to import. Torch's loader is patched in each fork.
import lmdb  # noqa: F401
import networkx  # noqa: F401
import numpy  # noqa: F401
import optuna  # noqa: F401
import rich.progress  # noqa: F401
import torch.utils.data  # noqa: F401

import plumb.cli.app
import plumb.cli.run_command
import plumb.cli.tune_command
import plumb.runtime.planned_loader
import plumb.script.child
import plumb.script.launcher
import plumb.script.plan_handler
import plumb.script.session
import plumb.script.trace_work
import plumb.tuning.in_loop
import plumb.tuning.live


class Spare:
    """As much of `subprocess.Popen` as plumb uses, for one child that is a fork from before the command began.

    So nothing of the command is left behind in it, neither open contexts nor calls; what is passed to it is sent.
    """

    def __init__(self):
        self._socket, theirs = socket.socketpair()
        self.returncode = None
        self.pid = os.fork()
        if not self.pid:
            self._socket.close()
            self._become(theirs)
        theirs.close()

    def __call__(self, command, *, env, pass_fds=(), **_):
        """Start the command in the fork."""
        reading, writing = os.pipe()
        place = command.index("plumb.script.child")
        told = json.dumps({"words": command[place:], "env": dict(env), "numbers": [1, *pass_fds]}).encode()
        # Its length comes first: a socket may deliver it in parts.
        socket.send_fds(self._socket, [len(told).to_bytes(8, "big")], [writing, *pass_fds])
        self._socket.sendall(told)
        self._socket.close()
        os.close(writing)
        self.stdout = os.fdopen(reading, "rb", buffering=0)
        return self

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self):
        while self.poll() is None:
            time.sleep(0.01)
        return self.returncode

    @staticmethod
    def _become(theirs):
        length, passed, _, _ = socket.recv_fds(theirs, 8, 16)
        if not length:
            os._exit(0)
        told = b""
        while len(told) < int.from_bytes(length, "big"):
            told += theirs.recv(1 << 20)
        theirs.close()
        told = json.loads(told)
        os.setsid()
        # Away from the numbers that they are to have.
        passed = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 500) for number in passed]
        for number, given in zip(told["numbers"], passed, strict=True):
            os.dup2(given, number)
        os.dup2(1, 2)
        os.environ.clear()
        os.environ.update(told["env"])
        streams()
        raise Become(told["words"])


class Become(BaseException):
    """Raised through all that a fork has inherited, up to where it runs `plumb.script.child` with these words."""

    def __init__(self, words):
        self.words = words


def streams():
    """Python's standard streams, on the descriptors as they are, in the encoding that the environment asks for."""
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = None
        with contextlib.suppress(OSError):
            os.fstat(number)
            raw = io.FileIO(number, "r" if number == 0 else "w", closefd=False)
            buffered = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
            errors = "backslashreplace" if number == 2 else "strict"
            stream = io.TextIOWrapper(buffered, encoding, errors, line_buffering=number == 2)
        setattr(sys, name, stream)


def replaced(orders, arguments):
    """In place of `exec`: this process is as good as a new one."""
    raise Become(["plumb.script.child", orders.to_argument(), *arguments])


def plainly(words):
    """A script as `python SCRIPT` runs it, or `python -m MODULE`."""
    is_module = words[0] == "-m"
    target = plumb.script.child.Target(words[is_module], is_module)
    error = plumb.script.child.run_script(target, words[is_module + 1 :])
    if error is not None:
        plumb.script.child._exit_like_python(error)


def run(job):
    """In the fork: what a job says, up to the end of the process."""
    os.setsid()
    os.chdir(job["folder"])
    for number, path in enumerate(job["streams"]):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    for number in job["closed"]:
        os.close(number)
    os.environ.clear()
    os.environ.update(job["environ"])
    # It was asked for before.
    tempfile.tempdir = None
    streams()
    sys.path.insert(0, "")
    signal.alarm(job["timeout"])
    plumb.script.launcher.replace_by = replaced
    kind, *words = job["words"]
    try:
        # Nothing else starts a process of the script's.
        spare = Spare() if kind in ("tune", "trace") else None
        plumb.script.launcher.subprocess = SimpleNamespace(PIPE=None, STDOUT=None, Popen=spare)
        if kind == "python":
            plainly(words)
        else:
            sys.argv = ["plumb", kind, *words]
            plumb.cli.app.main()
        return
    except Become as become:
        sys.argv = become.words
    plumb.script.child.main()


def end(work):
    """Do the work and end this process as Python does, but for what takes long: giving back all modules, one by one."""
    code = 0
    try:
        work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main():
    """Answer jobs until there are no more."""
    # The folder of this file, which scripts must not import from.
    del sys.path[0]
    # What is here already is never garbage, and to look at it would copy it.
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            end(lambda job=job: run(job))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"code": code, "session": pid}), flush=True)


if __name__ == "__main__":
    main()
