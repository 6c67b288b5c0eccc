"""Lightning's Trainer iterates the loaders: first a sanity check of validation, then training and validation."""

import zlib

import lightning
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

TRAIN_SAMPLES, VAL_SAMPLES = 1200, 160
EPOCHS = 2


class RecordDataset(Dataset):
    def __init__(self, count):
        rng = np.random.default_rng(0)
        self.records = [zlib.compress(rng.integers(0, 16, 100_000, dtype=np.uint8).tobytes(), 1) for _ in range(16)]
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raw = np.frombuffer(zlib.decompress(self.records[index % len(self.records)]), dtype=np.uint8)
        return torch.from_numpy(raw[index : index + 64].astype(np.float32)) / 16, index % 10


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(64, 10)
        self.losses = []

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        loss = nn.functional.cross_entropy(self.model(inputs), labels)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        inputs, labels = batch
        self.log("val_loss", nn.functional.cross_entropy(self.model(inputs), labels))

    def on_train_epoch_end(self):
        print(f"epoch {self.current_epoch} done loss={sum(self.losses) / len(self.losses):.6f}", flush=True)
        self.losses.clear()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main():
    lightning.seed_everything(0)
    train_loader = DataLoader(RecordDataset(TRAIN_SAMPLES), batch_size=16, shuffle=True)
    val_loader = DataLoader(RecordDataset(VAL_SAMPLES), batch_size=16)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), train_loader, val_loader)


if __name__ == "__main__":
    main()
