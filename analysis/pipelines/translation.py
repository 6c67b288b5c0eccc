"""Translation with batches of sentences that are about equally long, each of about the same number of words."""

import random
from pathlib import Path

from torch.utils.data import Dataset, Sampler

from analysis.pipelines.pipeline import Pipeline, made_once
from analysis.pipelines.sentences import padded, tokens, write_pairs

_PAIRS, _WORDS_A_BATCH, _BATCHES_A_BUCKET = 30_000, 2048, 50


class Pairs(Dataset):
    """Two sentences, tokenised."""

    def __init__(self, path):
        self.lines = Path(path).read_text().splitlines()

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, index):
        source, target = self.lines[index].split("\t")
        return tokens(source), tokens(target)


class Buckets(Sampler):
    """Shuffles, sorts stretches of sentences by length, cuts them into batches, and shuffles these."""

    def __init__(self, lengths):
        self.lengths = lengths
        self.per_stretch = _BATCHES_A_BUCKET * _WORDS_A_BATCH // (sum(lengths) // len(lengths))

    def __iter__(self):
        order = random.sample(range(len(self.lengths)), len(self.lengths))
        batches = []
        for begin in range(0, len(order), self.per_stretch):
            stretch = sorted(order[begin : begin + self.per_stretch], key=self.lengths.__getitem__)
            batch, longest = [], 0
            for index in stretch:
                longest = max(longest, self.lengths[index])
                if batch and longest * (len(batch) + 1) > _WORDS_A_BATCH:
                    batches.append(batch)
                    batch, longest = [], self.lengths[index]
                batch.append(index)
            batches.append(batch)
        random.shuffle(batches)
        return iter(batches)

    def __len__(self):
        return sum(self.lengths) // _WORDS_A_BATCH


def make(folder: Path) -> Pipeline:
    """Batches of 2,048 words at most, padding included."""
    path = made_once(folder / "translation", lambda draft: write_pairs(draft / "pairs.tsv", _PAIRS, 0)) / "pairs.tsv"
    dataset = Pairs(path)
    buckets = Buckets([line.partition("\t")[0].count(" ") + 1 for line in dataset.lines])
    batches = list(buckets)
    return Pipeline(
        "translation, buckets",
        "the CPU",
        dataset,
        round(len(dataset) / len(batches)),
        collate_fn=padded,
        batch_sampler=buckets,
        is_deterministic=True,
    )
