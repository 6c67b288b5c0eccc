"""Settings of the whole process that may influence samples, and that workers copy at their start."""

from __future__ import annotations

import decimal
import locale
import os
import sys
import time
from typing import Any

import numpy as np
import torch


def process_settings() -> dict[str, Any]:
    """Return the settings by their names for people, comparable with `==`.

    Whether torch records gradients is left out: loops switch it off around their evaluations.
    """
    image_file = sys.modules.get("PIL.ImageFile")
    return {
        **quick_settings(),
        "torch's default device": torch.get_default_device(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch's precision of matrix products": torch.get_float32_matmul_precision(),
        "the way in which torch prints": repr(vars(torch._tensor_str.PRINT_OPTS)),
        "the way in which NumPy prints": repr(np.get_printoptions()),
        "the locale": locale.setlocale(locale.LC_ALL, None),
        "the time zone": time.tzname,
        "the recursion limit": sys.getrecursionlimit(),
        "PIL's treatment of truncated files": getattr(image_file, "LOAD_TRUNCATED_IMAGES", None),
    }


def quick_settings() -> dict[str, Any]:
    """Return those of the settings that are read in a few microseconds, before each batch."""
    try:
        folder = os.getcwd()
    except OSError:
        folder = ""
    context = decimal.getcontext()
    return {
        "the working folder": folder,
        "torch's default type": torch.get_default_dtype(),
        "NumPy's treatment of errors": np.geterr(),
        "the context of decimal numbers": (
            context.prec,
            context.rounding,
            context.Emin,
            context.Emax,
            tuple(context.traps.values()),
        ),
    }
