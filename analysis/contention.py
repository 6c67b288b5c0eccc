"""Less of the machine than there is: fewer CPUs, and somebody else who keeps one busy."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from analysis.images import ROOT

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
