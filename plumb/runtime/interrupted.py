"""Reading that is interrupted between its calls, so that what threads can do to each other happens soon."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from plumb.trace.expand import PLUMB_FOLDER

MOST_PAUSES = 40
LONGEST_SECONDS = 2e-4


def interrupted(read: Callable[[Any], Any], seed: int) -> Callable[[Any], Any]:
    """`read`, with pauses between the calls that it makes, in which other threads run. For one thread.

    Samples have up to `MOST_PAUSES` of them, spread over as many calls as the last sample had. A profiler that the
    thread has is put back.
    """
    chance = random.Random(seed)
    share = 1.0
    events = pauses = 0

    def pause(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal events, pauses
        if frame.f_code.co_filename.startswith(PLUMB_FOLDER):
            return
        events += 1
        if pauses < MOST_PAUSES and chance.random() < share:
            pauses += 1
            time.sleep(chance.random() * LONGEST_SECONDS)

    def read_interrupted(index: Any) -> Any:
        nonlocal share, events, pauses
        events = pauses = 0
        before = sys.getprofile()
        sys.setprofile(pause)
        try:
            return read(index)
        finally:
            sys.setprofile(before)
            share = min(1.0, MOST_PAUSES / max(1, events))

    return read_interrupted
