"""Search for available rewrites beside the training, in a separate process that reads its own samples."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.utils.data import DataLoader

from plumb.host.process_control import end_with_parent
from plumb.rewrites.find_rewrites import AvailableRewrites, find_rewrites
from plumb.tuning.measure.sample_cost import measure_samples
from plumb.tuning.measure.throughput import IndexStream

_COST_SECONDS, _REWRITES_SECONDS, _LATE_SECONDS = 0.5, 8.0, 20.0
_NICE = 15


class BackgroundSearch:
    """Process that searches for rewrites of `loader`, from construction on, with the samples at `batches` of indices.

    It is forked, so the caller must have checked that forking is safe. With `is_nice` it uses only CPU time that the
    loop leaves. Raises OSError if it can't be forked, and AssertionError in a process that may not have children.
    """

    def __init__(self, loader: DataLoader[Any], batches: Sequence[Any], is_nice: bool) -> None:
        context = multiprocessing.get_context("fork")
        self._found, sender = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_look, args=(sender, loader, batches, is_nice), name="plumb-scout", daemon=True
        )
        self._process.start()
        sender.close()
        self._late_at = time.perf_counter() + _COST_SECONDS + _REWRITES_SECONDS + _LATE_SECONDS

    def available(self) -> AvailableRewrites | None:
        """Return the rewrites found: an empty result if the process failed or is late; None while it runs."""
        if self._found.closed:
            return AvailableRewrites()
        is_there = self._found.poll()
        if not is_there and self._process.is_alive() and time.perf_counter() < self._late_at:
            return None
        available = AvailableRewrites()
        if is_there:
            # The process may have died while it sent its result.
            with suppress(EOFError, OSError):
                available = self._found.recv()
        self.end()
        return available

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()
        self._found.close()


def _look(sender: Connection, loader: DataLoader[Any], batches: Sequence[Any], is_nice: bool) -> None:
    if is_nice:
        os.nice(_NICE)
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The dataset's output is discarded, because the training prints it for every sample as well.
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    # OpenMP's threads don't survive the fork, so a computation shared between them would never end.
    torch.set_num_threads(1)
    stream = IndexStream(batches)
    cost = measure_samples(loader, stream, _COST_SECONDS).cost
    indices = [index for batch in batches for index in batch]
    available = find_rewrites(loader, cost, indices, _REWRITES_SECONDS, may_use_gpu=False)
    sender.send(dataclasses.replace(available, pipeline=None))
