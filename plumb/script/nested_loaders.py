"""Detection of loaders that a dataset's code reads: a loader within a loader, as in torchio's queue."""

from __future__ import annotations

import sys
from types import FrameType

_FETCHERS = ("torch/utils/data/_utils/fetch.py", "plumb/runtime/fetch.py")
_READS_SAMPLES = {"__getitem__", "__getitems__"}
_OF_A_DATASET = {"__init__", "__iter__", "__next__"}


def is_inside_dataset(frame: FrameType | None) -> bool:
    """Return whether a call is made while a dataset is constructed or reads a sample.

    Torch's iterable datasets and plain map-style ones are recognized by class, all others by the method's name.
    """
    dataset = getattr(sys.modules.get("torch.utils.data.dataset"), "Dataset", ())
    while frame is not None:
        code = frame.f_code
        if code.co_name in _READS_SAMPLES or code.co_filename.endswith(_FETCHERS):
            return True
        if code.co_name in _OF_A_DATASET and isinstance(_receiver(frame), dataset):
            return True
        frame = frame.f_back
    return False


def _receiver(frame: FrameType) -> object:
    names = frame.f_code.co_varnames
    return frame.f_locals.get(names[0]) if frame.f_code.co_argcount else None
