"""Code that patches torch's classes, or ends its process, run in a fork of the tests' own."""

from __future__ import annotations

import os
import traceback


def run_forked(code: str) -> str:
    """Run code in a fork; what it raised, as a traceback, or nothing."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        said = ""
        try:
            exec(compile(code, "<forked>", "exec"), {"__name__": "forked"})
        except BaseException:
            said = traceback.format_exc()
        with open(writing, "w") as pipe:
            pipe.write(said)
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        raised = pipe.read()
    os.waitpid(pid, 0)
    return raised
