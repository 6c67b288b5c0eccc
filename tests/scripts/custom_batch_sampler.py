"""Batches are made of samples of similar length, by a batch sampler; they differ in size."""

import random

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

SAMPLES = 300
TOKENS_PER_BATCH = 1500
EPOCHS = 2


class Sentences(Dataset):
    def __init__(self, count):
        self.lengths = np.random.default_rng(0).integers(10, 200, count).tolist()

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        noise = np.random.default_rng(index).standard_normal(100 * self.lengths[index])
        tokens = (np.sort(noise)[::100] * 100).astype(np.int64) % 256
        return torch.from_numpy(tokens)


class LengthBatchSampler(Sampler):
    def __init__(self, lengths, tokens, seed=0):
        self.random = random.Random(seed)
        self.batches, batch = [], []
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            if batch and (len(batch) + 1) * lengths[index] > tokens:
                self.batches.append(batch)
                batch = []
            batch.append(index)
        self.batches.append(batch)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.random.shuffle(self.batches)
        return iter(self.batches)


def collate(sentences):
    return pad_sequence(sentences, batch_first=True)


def main():
    torch.manual_seed(0)
    dataset = Sentences(SAMPLES)
    batch_sampler = LengthBatchSampler(dataset.lengths, TOKENS_PER_BATCH)
    train_loader = DataLoader(dataset, batch_sampler=batch_sampler, collate_fn=collate)
    model = nn.Sequential(nn.Embedding(256, 16), nn.Linear(16, 256))
    for epoch in range(EPOCHS):
        total, sentences = 0.0, 0
        for tokens in train_loader:
            loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
            model.zero_grad()
            total, sentences = total + loss.item(), sentences + len(tokens)
        print(f"epoch {epoch} done loss={total / len(train_loader):.6f} sentences={sentences}", flush=True)


if __name__ == "__main__":
    main()
