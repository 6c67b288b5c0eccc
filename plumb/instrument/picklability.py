"""Check whether the objects of a loader can be sent to a worker that isn't forked."""

from __future__ import annotations

import functools
import io
import pickle
from multiprocessing.reduction import ForkingPickler
from types import MethodType
from typing import Any

import torch
from torch.utils.data import DataLoader

from plumb.instrument.main_module import main_is_guarded

# Errors of pickle for objects that can't be pickled.
_UNWRITTEN = (pickle.PicklingError, AttributeError, TypeError, NotImplementedError, ValueError)


def pickling_error(loader: DataLoader[Any]) -> str | None:
    """Return which part of a loader can't be pickled, and why, for people; None if all can, as far as known.

    The loader's parts are pickled once, and the result is dropped.
    """
    parts = {
        "the dataset": loader.dataset,
        "collate_fn": loader.collate_fn,
        "worker_init_fn": loader.worker_init_fn,
    }
    for name, part in parts.items():
        error = _pickling_error(part)
        if error is not None:
            return f"{name} can't be pickled ({error})"
    return None


def why_not_spawned(loader: DataLoader[Any]) -> str | None:
    """Return why no spawned process can read a loader's dataset, None if one can.

    It would run the script's main module again, and get the loader's parts by pickle.
    """
    if not main_is_guarded():
        return 'another one would run the script once more; put its main part under: if __name__ == "__main__"'
    return pickling_error(loader)


def _pickling_error(value: Any) -> Exception | None:
    try:
        _TrialPickler(_Nowhere(), pickle.HIGHEST_PROTOCOL).dump(value)
    except _UNWRITTEN as error:
        return error
    except Exception:
        # An error of the user's own code may be specific to this process.
        return None
    return None


class _Nowhere(io.RawIOBase):
    def write(self, data: Any) -> int:
        return memoryview(data).nbytes


class _TrialPickler(pickle.Pickler):
    """Pickler that takes objects with special treatment by multiprocessing and torch, such as tensors, as picklable.

    That treatment would move a tensor to shared memory, or keep a file open for a reader that never comes.
    """

    def __init__(self, stream: Any, protocol: int) -> None:
        super().__init__(stream, protocol)
        self._special = ForkingPickler(io.BytesIO()).dispatch_table

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_cuda:
            raise pickle.PicklingError("a tensor on a CUDA device would take a worker's own share of it")
        # The content of these must be pickled, too, and pickle can do that.
        is_special = type(value) in self._special and not isinstance(value, (functools.partial, MethodType))
        return (int, ()) if is_special else NotImplemented
