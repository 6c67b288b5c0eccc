"""A stream of pairs from shards, as a pipeline of stages; how long an epoch is hangs on the number of workers."""

import io
import json
import math
import os
import tarfile

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

SHARDS, PAIRS, BATCH, WORKERS, EPOCHS = 4, 24, 8, 2, 2


def write_shards():
    os.makedirs("shards")
    for shard in range(SHARDS):
        with tarfile.open(f"shards/{shard:03d}.tar", "w") as tar:
            for number in range(PAIRS):
                key = shard * PAIRS + number
                image = np.random.default_rng(key).integers(0, 256, (3, 16, 16), dtype=np.uint8)
                for name, data in ((f"{key}.bin", image.tobytes()), (f"{key}.txt", f"picture {key}".encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def split_by_worker(urls):
    info = get_worker_info()
    return urls[info.id :: info.num_workers] if info else urls


def open_shards(urls):
    for url in urls:
        with tarfile.open(url) as tar:
            for member in tar:
                yield member.name, tar.extractfile(member).read()


def group_by_key(files):
    sample = {}
    for name, data in files:
        key, suffix = name.split(".")
        if sample and sample["key"] != key:
            yield sample
            sample = {}
        sample |= {"key": key, suffix: data}
    yield sample


def decode(samples):
    for sample in samples:
        image = np.frombuffer(sample["bin"], dtype=np.uint8).reshape(3, 16, 16)
        text = [ord(letter) for letter in sample["txt"].decode().ljust(12)]
        yield torch.from_numpy(image.copy()).float() / 255, torch.tensor(text)


def batched(samples, size):
    batch = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield tuple(torch.stack(part) for part in zip(*batch))
            batch = []


class Pipeline(IterableDataset):
    """Yields `worker_batches` batches in each worker, however many samples the shards hold."""

    def __init__(self, urls, worker_batches):
        self.urls, self.worker_batches = urls, worker_batches

    def __iter__(self):
        given = 0
        while given < self.worker_batches:
            for batch in batched(decode(group_by_key(open_shards(split_by_worker(self.urls)))), BATCH):
                if given == self.worker_batches:
                    return
                given += 1
                yield batch


def get_data(urls, workers):
    samples = SHARDS * PAIRS
    worker_batches = math.ceil(math.ceil(samples / BATCH) / workers)
    loader = DataLoader(
        Pipeline(urls, worker_batches),
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    loader.num_batches = worker_batches * workers
    loader.num_samples = loader.num_batches * BATCH
    return loader


def main():
    torch.manual_seed(0)
    if not os.path.exists("shards"):
        write_shards()
    loader = get_data(sorted(f"shards/{name}" for name in os.listdir("shards")), WORKERS)
    image_tower, text_tower = nn.Sequential(nn.Flatten(), nn.Linear(768, 16)), nn.Embedding(128, 16)
    parameters = [*image_tower.parameters(), *text_tower.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    os.makedirs("logs/checkpoints", exist_ok=True)
    for epoch in range(EPOCHS):
        losses, batches = [], 0
        for images, texts in loader:
            left, right = image_tower(images), text_tower(texts).mean(1)
            labels = torch.arange(len(left))
            loss = nn.functional.cross_entropy(left @ right.T, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            batches += 1
        assert batches == loader.num_batches
        print(f"epoch {epoch} loss={sum(losses) / batches:.6f} batches={batches}", flush=True)
        torch.save({"epoch": epoch, "left": image_tower.state_dict()}, f"logs/checkpoints/epoch_{epoch}.pt")
        with open("logs/results.jsonl", "a") as file:
            file.write(json.dumps({"epoch": epoch, "loss": round(losses[-1], 6)}) + "\n")


if __name__ == "__main__":
    main()
