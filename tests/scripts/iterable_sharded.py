"""An iterable dataset that shares its files out among the workers by get_worker_info()."""

import zlib

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

SHARDS, SAMPLES_PER_SHARD = 8, 150
EPOCHS = 3


class ShardedStream(IterableDataset):
    def __init__(self, shards):
        rng = np.random.default_rng(0)
        self.records = [zlib.compress(rng.integers(0, 16, 300_000, dtype=np.uint8).tobytes(), 1) for _ in range(16)]
        self.shards = shards

    def __len__(self):
        return self.shards * SAMPLES_PER_SHARD

    def __iter__(self):
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for shard in range(first, self.shards, step):
            for index in range(shard * SAMPLES_PER_SHARD, (shard + 1) * SAMPLES_PER_SHARD):
                raw = np.frombuffer(zlib.decompress(self.records[index % len(self.records)]), dtype=np.uint8)
                yield torch.from_numpy(raw[index : index + 64].astype(np.float32)) / 16, index


torch.manual_seed(0)
model = nn.Linear(64, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train_loader = DataLoader(ShardedStream(SHARDS), batch_size=20)

for epoch in range(EPOCHS):
    total, seen = 0.0, []
    for inputs, numbers in train_loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), numbers % 10)
        loss.backward()
        optimizer.step()
        total += loss.item()
        seen += numbers.tolist()
    print(f"epoch {epoch} done loss={total:.6f} samples={len(seen)} different={len(set(seen))}", flush=True)
