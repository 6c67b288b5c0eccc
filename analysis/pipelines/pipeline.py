"""A dataset to measure, and how its files are made."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from analysis.images import ROOT

DATA = ROOT / "analysis" / "data"
_FEW_WORKERS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Pipeline:
    """An ordinary dataset with the loader arguments that its user chose, and what bounds it, in words.

    `worker_counts` are those worth measuring: past the cores only where samples wait. A `batch_sampler` makes batches
    of `batch_size` samples on average. `is_deterministic` says that an index always gives the same sample, and
    `ceiling_samples_per_second` what the source gives at most, where that is known.
    """

    name: str
    bounded_by: str
    dataset: Dataset[Any]
    batch_size: int
    collate_fn: Callable[[list[Any]], Any] | None = None
    num_workers: int = 0
    worker_counts: tuple[int, ...] = _FEW_WORKERS
    batch_sampler: Sampler[list[int]] | None = None
    is_deterministic: bool = False
    ceiling_samples_per_second: float | None = None

    @property
    def is_iterable(self) -> bool:
        """True if the dataset is iterated, so that its worker count is part of its meaning."""
        return isinstance(self.dataset, IterableDataset)

    @property
    def loader(self) -> DataLoader[Any]:
        """The user's own loader."""
        if self.batch_sampler is not None:
            return DataLoader(
                self.dataset,
                batch_sampler=self.batch_sampler,
                num_workers=self.num_workers,
                collate_fn=self.collate_fn,
            )
        return DataLoader(
            self.dataset,
            self.batch_size,
            shuffle=not self.is_iterable,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
        )


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make` where it is missing; it appears only when it is complete."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.partial-", dir=folder.parent) as temporary:
            draft = Path(temporary) / folder.name
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder
