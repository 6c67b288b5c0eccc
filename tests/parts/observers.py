"""Observers of the process that makes a sample, behind objects in which plumb does not see what the samples read.

A loader whose code reads its worker is given no other workers than the script's; most tests want to see them at work.
"""

import os
from functools import partial

from torch.utils.data import get_worker_info

observed_worker = partial(get_worker_info)
observed_process = partial(os.getpid)
