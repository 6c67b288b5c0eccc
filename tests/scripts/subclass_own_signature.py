"""A subclass of DataLoader takes a folder instead of a dataset, and makes a second loader from its own arguments."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import default_collate
from torch.utils.data.sampler import SubsetRandomSampler

FILES = 700
EPOCHS = 3


class SignalFiles(Dataset):
    def __init__(self, data_dir):
        self.paths = sorted(Path(data_dir).glob("*.npz"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        signal = np.load(self.paths[index])["signal"]
        spectrum = np.abs(np.fft.rfft(signal, n=60_000))[:64]
        return torch.from_numpy(spectrum / 8000).float(), index % 10


class SignalDataLoader(DataLoader):
    def __init__(
        self, data_dir, batch_size, shuffle=True, validation_split=0.0, num_workers=0, collate_fn=default_collate
    ):
        dataset = SignalFiles(data_dir)
        order = np.random.default_rng(0).permutation(len(dataset))
        held_out = int(len(dataset) * validation_split)
        self.valid_sampler = SubsetRandomSampler(order[:held_out].tolist())
        sampler = SubsetRandomSampler(order[held_out:].tolist()) if shuffle else None
        self.init_kwargs = {
            "dataset": dataset,
            "batch_size": batch_size,
            "collate_fn": collate_fn or default_collate,
            "num_workers": num_workers,
        }
        super().__init__(sampler=sampler, **self.init_kwargs)

    def split_validation(self):
        return DataLoader(sampler=self.valid_sampler, **self.init_kwargs)


def write_data(folder):
    rng = np.random.default_rng(0)
    for number in range(FILES):
        np.savez_compressed(Path(folder, f"{number:04d}.npz"), signal=rng.integers(-99, 100, 20_000).astype(np.int16))


def main():
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_data(folder)
        data_loader = SignalDataLoader(folder, 16, validation_split=0.1)
        valid_data_loader = data_loader.split_validation()
        model = nn.Linear(64, 10)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for epoch in range(EPOCHS):
            total = 0.0
            for inputs, labels in data_loader:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(inputs), labels)
                loss.backward()
                optimizer.step()
                total += loss.item()
            with torch.no_grad():
                correct = sum((model(inputs).argmax(1) == labels).sum().item() for inputs, labels in valid_data_loader)
            print(f"epoch {epoch} done loss={total / len(data_loader):.6f} correct={correct}", flush=True)


if __name__ == "__main__":
    main()
