"""Errors for batches that a worker has made and can't send, so that the loader doesn't wait for ever.

A queue of multiprocessing pickles in a thread of its own. It drops what can't be pickled (a lambda, an object of a
local class), with a traceback on standard error (python/cpython#91105 and others, in all versions up to 3.14).
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from torch._utils import ExceptionWrapper

_WORKER = "torch/utils/data/_utils/worker.py"


def report_unsent_batches(worker_id: int) -> None:
    """Make this worker send an error in place of a batch that can't be sent; to be called in a `worker_init_fn`."""
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.endswith(_WORKER):
        if frame.f_back is None:
            return
        frame = frame.f_back
    queue = frame.f_locals.get("data_queue")
    if hasattr(queue, "_on_queue_feeder_error"):
        vars(queue)["_on_queue_feeder_error"] = functools.partial(_send_error, queue, worker_id)


def _send_error(queue: Any, worker_id: int, error: Exception, unsent: Any) -> None:
    """Put the pickling error into the queue, with the number of the batch."""
    wrapped = ExceptionWrapper((type(error), error, None), where=f"in DataLoader worker process {worker_id}")  # type: ignore[no-untyped-call]
    queue.put((unsent[0], wrapped))
