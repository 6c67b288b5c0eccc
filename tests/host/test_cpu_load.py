"""Whose CPU seconds are whose."""

import subprocess
import sys
import time

from plumb.host.cpu_load import OthersLoad, _own_seconds

BURN = "import time\nwhile time.process_time() < 1.0: pass\nprint('burnt', flush=True)\n"


def test_a_child_is_one_of_us():
    with subprocess.Popen([sys.executable, "-c", BURN + "time.sleep(60)"], stdout=subprocess.PIPE) as child:
        before = _own_seconds()
        child.stdout.readline()
        burnt = _own_seconds() - before
        child.kill()
    assert burnt > 0.5


def test_a_process_of_nobody_s_is_another(tmp_path):
    (tmp_path / "burn.py").write_text(BURN)
    (tmp_path / "done").touch()
    load, begun = OthersLoad(), time.perf_counter()
    # The shell ends at once, and its child belongs to nobody here any more.
    command = f"{sys.executable} {tmp_path}/burn.py > {tmp_path}/done &"
    subprocess.run(["/bin/sh", "-c", command], check=True)
    while "burnt" not in (tmp_path / "done").read_text() and time.perf_counter() - begun < 60:
        time.sleep(0.1)
    assert load.cpus() * (time.perf_counter() - begun) > 0.8
