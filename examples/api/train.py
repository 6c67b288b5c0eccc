"""Tunes the loading of a dataset from within Python by `plumb.tune`, and trains with the loader of the plan.

What it shows: with the training step as `step`, plumb knows what the loader has to keep up with. The plan explains
itself, is saved to a file, makes the loader, and has the best of torch's own arguments for a loader without plumb.

    python examples/api/train.py                     tune for 10 seconds, print the report, and train on the plan
    python examples/api/train.py --budget 30         the same with more time for the tuning
    plumb report texts.plumb.json                    show the report of the saved plan again
"""

import argparse
import copy
import time
import zlib

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

import plumb

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LANGUAGES = 4
BUCKETS = 2_048


def make_texts(count, seed=20240229):
    """Return texts of four made-up languages, each with its own 300 words, and the number of each text's language."""
    rng = np.random.default_rng(seed)
    vocabularies = []
    for _ in range(LANGUAGES):
        frequencies = rng.dirichlet(np.full(len(LETTERS), 0.5))
        lengths = rng.integers(2, 9, 300)
        vocabularies.append(["".join(rng.choice(list(LETTERS), length, p=frequencies)) for length in lengths])
    languages = rng.integers(0, LANGUAGES, count)
    return [" ".join(rng.choice(vocabularies[language], 150)) for language in languages], languages.tolist()


def trigrams(text):
    return [text[start : start + 3] for start in range(len(text) - 2)]


def count_in_buckets(parts):
    buckets = [zlib.crc32(part.encode()) % BUCKETS for part in parts]
    return torch.bincount(torch.tensor(buckets), minlength=BUCKETS).float()


def drop_some(counts, share=0.1):
    return counts * (torch.rand(BUCKETS) >= share)


class TextDataset(Dataset):
    """Counts of the groups of three letters in each text, some of them left out at random."""

    def __init__(self, count):
        self.texts, self.languages = make_texts(count)

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return drop_some(count_in_buckets(trigrams(self.texts[index]))), self.languages[index]


def step_of(model):
    """Return the function that trains a model on a batch, and returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(batch):
        counts, languages = batch
        loss = nn.functional.cross_entropy(model(counts), languages)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main():
    parser = argparse.ArgumentParser(description="Train a small network to tell the language of a text.")
    parser.add_argument("--budget", type=float, default=10, help="seconds of tuning")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--texts", type=int, default=4_000)
    parser.add_argument("--plan", default="texts.plumb.json", help="file that the plan is saved to")
    args = parser.parse_args()
    torch.manual_seed(0)
    # The step stands in for an accelerator's, and leaves the cores to the data.
    torch.set_num_threads(1)

    dataset = TextDataset(args.texts)
    model = nn.Sequential(nn.Linear(BUCKETS, 64), nn.ReLU(), nn.Linear(64, LANGUAGES))
    # The tuning really calls the step: it trains a copy of the model.
    plan = plumb.tune(dataset, batch_size=64, shuffle=True, step=step_of(copy.deepcopy(model)), budget=args.budget)
    print(plan.explain())
    plan.save(args.plan)
    print(f"in torch's own arguments alone: {plan.plain.config.loader_arguments()}")

    loader = plan.loader(dataset, shuffle=True)
    step = step_of(model)
    for epoch in range(1, args.epochs + 1):
        started = time.perf_counter()
        losses = [step(batch) for batch in loader]
        rate = len(dataset) / (time.perf_counter() - started)
        print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}, {rate:,.0f} texts/s", flush=True)


if __name__ == "__main__":
    main()
