"""Whether a worker that isn't forked can be sent what it works with."""

from __future__ import annotations

import functools
import io
import pickle
from multiprocessing.reduction import ForkingPickler
from types import MethodType
from typing import Any

import torch
from torch.utils.data import DataLoader

from plumb.runtime.main_module import main_is_guarded

# What pickle raises where something has no way to be written.
_UNWRITTEN = (pickle.PicklingError, AttributeError, TypeError, NotImplementedError, ValueError)


def why_not_sent(loader: DataLoader[Any]) -> str | None:
    """What of a loader can't be pickled, and why, for people; None where all can be, as far as can be told.

    What the loader holds is written out once, and nothing of it is kept.
    """
    parts = {
        "the dataset": loader.dataset,
        "collate_fn": loader.collate_fn,
        "worker_init_fn": loader.worker_init_fn,
    }
    for name, part in parts.items():
        error = _why_not_written(part)
        if error is not None:
            return f"{name} can't be pickled ({error})"
    return None


def why_not_spawned(loader: DataLoader[Any]) -> str | None:
    """Return why no process can be spawned that reads a loader's dataset, None if one can.

    It would run the script's main module once more, and be sent what the loader holds.
    """
    if not main_is_guarded():
        return 'another one would run the script once more; put its main part under: if __name__ == "__main__"'
    return why_not_sent(loader)


def _why_not_written(value: Any) -> Exception | None:
    try:
        _Pickler(_Nowhere(), pickle.HIGHEST_PROTOCOL).dump(value)
    except _UNWRITTEN as error:
        return error
    except Exception:
        # What the user's own code raises here may be about this process, not about the worker's.
        return None
    return None


class _Nowhere(io.RawIOBase):
    def write(self, data: Any) -> int:
        return memoryview(data).nbytes


class _Pickler(pickle.Pickler):
    """Takes what multiprocessing and torch have their own ways for, tensors among it, to be written.

    Those ways would move a tensor to shared memory, or hold a file open for a reader that never comes.
    """

    def __init__(self, stream: Any, protocol: int) -> None:
        super().__init__(stream, protocol)
        self._special = ForkingPickler(io.BytesIO()).dispatch_table

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_cuda:
            raise pickle.PicklingError("a tensor on a CUDA device would take a worker's own share of it")
        # What these hold must be written, too, and pickle knows how.
        is_special = type(value) in self._special and not isinstance(value, (functools.partial, MethodType))
        return (int, ()) if is_special else NotImplemented
