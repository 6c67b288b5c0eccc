"""Translation from a stream: sentences are read from files as they come, and sorted by length within a window."""

import itertools
from pathlib import Path

from torch.utils.data import IterableDataset, get_worker_info

from analysis.pipelines.pipeline import Pipeline, made_once
from analysis.pipelines.sentences import padded, tokens, write_pairs

_FILES, _PAIRS, _WINDOW = 16, 2000, 1024


class Stream(IterableDataset):
    """Each worker reads every n-th file; the windows of a worker are its own."""

    def __init__(self, folder):
        self.paths = sorted(Path(folder).glob("*.tsv"))

    def __len__(self):
        return _FILES * _PAIRS

    def __iter__(self):
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        lines = itertools.chain.from_iterable(map(open, self.paths[first::step]))
        while window := list(itertools.islice(lines, _WINDOW)):
            pairs = [tuple(map(tokens, line.rstrip("\n").split("\t"))) for line in window]
            yield from sorted(pairs, key=lambda pair: len(pair[0]))


def _fill(folder):
    for number in range(_FILES):
        write_pairs(folder / f"{number:02d}.tsv", _PAIRS, number)


def make(folder: Path) -> Pipeline:
    """Sixteen files, windows of 1,024 sentences, 64 a batch."""
    dataset = Stream(made_once(folder / "sorted_translation", _fill))
    return Pipeline("translation, sorted stream", "the CPU", dataset, 64, collate_fn=padded, is_deterministic=True)
