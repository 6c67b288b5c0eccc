"""Lightning, as a template with a data module arranges it: prepare, split, fit with a checkpoint callback, test."""

import gzip
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, random_split

DATA = Path("data")


class Digits(Dataset):
    def __init__(self, folder, train):
        name = "train" if train else "test"
        with gzip.open(folder / f"{name}.gz") as file:
            self.pixels = np.frombuffer(file.read(), dtype=np.uint8).reshape(-1, 16, 16)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        image = torch.from_numpy(self.pixels[index].astype(np.float32)) / 255
        return (image - 0.13) / 0.31, int(self.pixels[index, 0, 0]) % 10


class DigitsDataModule(lightning.LightningDataModule):
    def __init__(self, batch_size=16, num_workers=0, pin_memory=False):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.data_train = self.data_val = self.data_test = None

    def prepare_data(self):
        DATA.mkdir(exist_ok=True)
        for name, count in (("train", 128), ("test", 48)):
            if not (DATA / f"{name}.gz").exists():
                pixels = np.random.default_rng(count).integers(0, 256, (count, 16, 16), dtype=np.uint8)
                (DATA / f"{name}.gz").write_bytes(gzip.compress(pixels.tobytes(), mtime=0))

    def setup(self, stage=None):
        if not self.data_train:
            dataset = ConcatDataset([Digits(DATA, train=True), Digits(DATA, train=False)])
            self.data_train, self.data_val, self.data_test = random_split(
                dataset, [128, 24, 24], generator=torch.Generator().manual_seed(42)
            )

    def _loader(self, dataset, shuffle):
        return DataLoader(
            dataset,
            batch_size=self.hparams.batch_size,
            num_workers=self.hparams.num_workers,
            pin_memory=self.hparams.pin_memory,
            shuffle=shuffle,
        )

    def train_dataloader(self):
        return self._loader(self.data_train, True)

    def val_dataloader(self):
        return self._loader(self.data_val, False)

    def test_dataloader(self):
        return self._loader(self.data_test, False)


class DigitsModule(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10))
        self.total = 0.0

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.total += loss.item()
        return loss

    def on_train_epoch_end(self):
        print(f"epoch {self.current_epoch} loss={self.total:.6f}", flush=True)
        self.total = 0.0

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        print(f"test {batch_idx} loss={loss.item():.6f}", flush=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def main():
    lightning.seed_everything(12345, workers=True, verbose=False)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=CSVLogger("logs", version=0),
        callbacks=[ModelCheckpoint("checkpoints", "best", monitor="val_loss", save_last=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    module, data = DigitsModule(), DigitsDataModule()
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)


if __name__ == "__main__":
    main()
