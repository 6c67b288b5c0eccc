"""Where a process was, as dumps of its stacks tell."""

import time

import pytest

from plumb.instrument import stack_dump
from plumb.script import launcher

LIBRARY = '  File "/usr/lib/x/site-packages/lib/{name}.py", line 9 in load\n'
OWN = '  File "/home/me/{name}.py", line 30 in <module>\n'
IMPORTING = '  File "<frozen importlib._bootstrap>", line 241 in _call_with_frames_removed\n'
OTHER_RANKS = '  File "/usr/lib/x/site-packages/torch/distributed/rendezvous.py", line 279 in _env_rendezvous_handler\n'


def test_a_dump_is_read_up_to_the_worker_s_own_loop():
    dump = """Thread 0x1 (most recent call first):
  File "/usr/lib/x/site-packages/torch/pool.py", line 3 in wait

Current thread 0x2 (most recent call first):
  File "/usr/lib/x/site-packages/PIL/Image.py", line 9 in load
  File "/home/me/data.py", line 12 in decode
  File "/home/me/data.py", line 30 in __getitem__
  File "/usr/lib/x/site-packages/torch/utils/data/_utils/worker.py", line 300 in _worker_loop
  File "/home/me/train.py", line 99 in <module>
"""
    assert stack_dump.calls(dump) == ("data.py:12 in decode", "data.py:30 in __getitem__")
    assert stack_dump.calls("") == ()


def dump_of(*calls):
    return "Timeout (0:00:14)!\nThread 0x1 (most recent call first):\n" + "".join(
        call.format(name=number) for number, call in enumerate(calls)
    )


@pytest.mark.parametrize(
    ("calls", "is_starting"),
    [
        ([LIBRARY, IMPORTING, LIBRARY, OWN], True),
        ([IMPORTING, LIBRARY], True),
        ([LIBRARY, OTHER_RANKS, OWN], True),
        ([LIBRARY, OWN], False),
        ([LIBRARY, OWN, IMPORTING, OWN], False),
        ([OWN], False),
        ([], False),
    ],
)
def test_imports_and_other_ranks_are_waited_for_and_the_user_s_own_work_is_not(calls, is_starting):
    assert stack_dump.is_starting(dump_of(*calls)) is is_starting
    assert stack_dump.is_starting(dump_of(LIBRARY, OWN) + dump_of(*calls)) is is_starting


def test_the_last_of_several_dumps_counts():
    assert stack_dump.calls(dump_of(OWN) + dump_of(LIBRARY, OWN)) == ("1.py:30 in <module>",)
    assert not stack_dump.is_starting("")


@pytest.mark.parametrize(
    ("calls", "is_over"), [([], False), ([LIBRARY, IMPORTING, OWN], False), ([LIBRARY, OWN], True)]
)
def test_a_script_that_has_said_nothing_yet_is_waited_for(calls, is_over, monkeypatch):
    monkeypatch.setattr(launcher, "start_seconds", lambda budget: 0.2)
    deadline = launcher._Deadline(0.2, lambda: dump_of(*calls) if calls else "")
    assert not deadline.has_come()
    time.sleep(0.21)
    assert deadline.has_come() is is_over
    time.sleep(0.21 * launcher._STARTS_AT_MOST)
    while not deadline.has_come():
        time.sleep(0.01)
