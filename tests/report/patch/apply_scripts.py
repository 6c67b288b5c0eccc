"""Small training scripts, each with its own way of making a loader, for `plumb apply`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A script; where a value comes from elsewhere, what plumb says of it, and how a user does what it says."""

    source: str
    advice: tuple[str, ...] = ()
    follow: tuple[str, str] | None = None
    arguments: tuple[str, ...] = ()


_HEAD = """
import torch
from torch.utils.data import DataLoader

data = torch.arange(16)
"""
_TAIL = """
for batch in loader:
    assert len(batch) == 4
"""

SPELLED_OUT = {
    "keyword": Case(f"{_HEAD}loader = DataLoader(data, batch_size=4, num_workers=0, shuffle=True){_TAIL}"),
    "positional": Case(f"{_HEAD}loader = DataLoader(data, 4, True, None, None, 1, None, False){_TAIL}"),
    "lines_with_comments": Case(
        _HEAD
        + """
loader = DataLoader(
    data,  # all of it
    batch_size=4,
    # one was enough so far
    num_workers=1,  # a guess
    shuffle=True,  # every epoch
)
"""
        + _TAIL
    ),
    "lines_without_trailing_comma": Case(
        _HEAD
        + "loader = DataLoader(data,\n                    batch_size=4,\n                    shuffle=True)  # why"
        + _TAIL
    ),
    "renamed_import": Case(
        """
import torch
from torch.utils.data import DataLoader as DL

data = torch.arange(16)
loader = DL(
    data, batch_size=4  # small
)
"""
        + _TAIL
    ),
    "keywords_known": Case(
        f"{_HEAD}options = {{'batch_size': 4, 'shuffle': True}}\nloader = DataLoader(data, **options){_TAIL}"
    ),
    "subclass": Case(
        _HEAD
        + """
class Quick(DataLoader):
    def __init__(self, data, size):
        super().__init__(data, size, shuffle=True)
        self.size = size

loader = Quick(data, 4)
"""
        + _TAIL
    ),
    "subclass_without_constructor": Case(
        f"{_HEAD}class Quick(DataLoader):\n    made = True\n\nloader = Quick(data, 4){_TAIL}"
    ),
    "dictionary_of_loaders": Case(
        _HEAD
        + """
loaders = {
    "val": DataLoader(data, batch_size=4),
    'train': DataLoader(data, batch_size=4, shuffle=True, pin_memory=False),
}
for loader in loaders.values():
    for batch in loader:
        assert len(batch) == 4
"""
    ),
    "list_of_loaders": Case(
        f"{_HEAD}loaders = [DataLoader(part, batch_size=4) for part in (data, data)]\nloader = loaders[0]{_TAIL}"
    ),
    "method": Case(
        """
import torch.utils.data

class Training:
    def __init__(self):
        self.data = torch.arange(16)
        self.loader = self.train_dataloader()

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.data, batch_size=4, num_workers = 0, )

loader = Training().loader
"""
        + _TAIL
    ),
    "continued_after_a_patch": Case(
        _HEAD
        + "WORKERS = 2\n"
        + "loader = DataLoader(data, 4, num_workers=WORKERS, prefetch_factor=8 if WORKERS > 0 else None,\n"
        + "                    persistent_workers=WORKERS > 0)\n"
        + _TAIL
    ),
}

ELSEWHERE = {
    "argparse": Case(
        """
import argparse
import torch
from torch.utils.data import DataLoader

parser = argparse.ArgumentParser()
parser.add_argument("-j", "--load-workers", type=int, default=0)
args = parser.parse_args()
data = torch.arange(16)
loader = DataLoader(data, batch_size=4, num_workers=args.load_workers)
"""
        + _TAIL,
        advice=("num_workers comes from --load-workers (default 0), defined at script.py:7: pass --load-workers 2",),
        arguments=("--load-workers", "2"),
    ),
    "argparse_through_a_variable_and_a_parameter": Case(
        """
import argparse
import torch
from torch.utils.data import DataLoader

def make(data, size, workers):
    count = workers
    return DataLoader(data, batch_size=size, num_workers=count)

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    loader = make(torch.arange(16), 4, args.workers)
    for batch in loader:
        assert len(batch) == 4

main()
""",
        advice=("num_workers comes from --workers (default 1), defined at script.py:12: pass --workers 2",),
        arguments=("--workers", "2"),
    ),
    "dictionary_config": Case(
        f"{_HEAD}cfg = {{'loader': {{'workers': 0}}}}\n"
        f"loader = DataLoader(data, batch_size=4, num_workers=cfg['loader']['workers']){_TAIL}",
        advice=("num_workers comes from cfg['loader']['workers'], assigned at script.py:6: make it 2 there",),
        follow=("'workers': 0", "'workers': 2"),
    ),
    "keywords_that_hold_it": Case(
        f"{_HEAD}options = dict(num_workers=1, batch_size=4)\nloader = DataLoader(data, **options){_TAIL}",
        advice=('num_workers comes from options["num_workers"], assigned at script.py:6: make it 2 there',),
        follow=("num_workers=1", "num_workers=2"),
    ),
    "keywords_that_change": Case(
        f"{_HEAD}options = {{'batch_size': 4}}\nif len(data) > 4:\n    options.update(num_workers=1)\n"
        f"loader = DataLoader(data, **options){_TAIL}",
        advice=(
            "num_workers, prefetch_factor, persistent_workers come from **options, assigned at script.py:6: "
            "put num_workers=2, prefetch_factor=4, persistent_workers=True into it",
        ),
        follow=("num_workers=1", "num_workers=2, prefetch_factor=4, persistent_workers=True"),
    ),
    "keywords_of_the_function": Case(
        f"{_HEAD}def make(**options):\n    return DataLoader(data, batch_size=4, **options)\n\n"
        f"loader = make(num_workers=1){_TAIL}",
        advice=(
            "num_workers, prefetch_factor, persistent_workers come from **options, what make (script.py:6) is "
            "called with: pass num_workers=2, prefetch_factor=4, persistent_workers=True to it (script.py:9)",
        ),
        follow=("num_workers=1", "num_workers=2, prefetch_factor=4, persistent_workers=True"),
    ),
    "partial": Case(
        f"{_HEAD}import functools\nmake = functools.partial(DataLoader, batch_size=4, num_workers=1)\n"
        f"loader = make(data){_TAIL}",
        advice=("num_workers comes from functools.partial at script.py:7: write num_workers=2 there",),
        follow=("num_workers=1", "num_workers=2"),
    ),
    "factory": Case(
        f"{_HEAD}def make(data, workers=0):\n    return DataLoader(data, batch_size=4, num_workers=workers)\n\n"
        f"loader = make(data){_TAIL}",
        advice=(
            "num_workers comes from workers, a parameter of make (script.py:6): pass workers=2 to it (script.py:9)",
        ),
        follow=("make(data)\n", "make(data, workers=2)\n"),
    ),
    "variable": Case(
        f"{_HEAD}WORKERS = 0\nloader = DataLoader(data, batch_size=4, num_workers=WORKERS){_TAIL}",
        advice=("num_workers comes from WORKERS, assigned at script.py:6: make it 2 there",),
        follow=("WORKERS = 0", "WORKERS = 2"),
    ),
    "expression": Case(
        f"{_HEAD}loader = DataLoader(data, batch_size=4, num_workers=len(data) // 16){_TAIL}",
        advice=(
            "num_workers comes from len(data) // 16 at script.py:6: make it 2",
            "where the number of workers is set, add prefetch_factor=4, persistent_workers=True",
        ),
        follow=("len(data) // 16", "2, prefetch_factor=4, persistent_workers=True"),
    ),
    "field_of_settings": Case(
        f"{_HEAD}class Settings:\n    workers: int = 0\n\nsettings = Settings()\n"
        f"loader = DataLoader(data, batch_size=4, num_workers=settings.workers){_TAIL}",
        advice=("num_workers comes from settings.workers, a field defined at script.py:7: make it 2 there",),
        follow=("workers: int = 0", "workers: int = 2"),
    ),
}
