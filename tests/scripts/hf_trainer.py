"""The Trainer of transformers makes the loaders itself, from datasets whose samples are dictionaries."""

import tempfile
import zlib

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

TRAIN_SAMPLES, VAL_SAMPLES = 1200, 160
EPOCHS = 2


class TokenDataset(Dataset):
    def __init__(self, count):
        rng = np.random.default_rng(0)
        self.records = [zlib.compress(rng.integers(0, 16, 100_000, dtype=np.uint8).tobytes(), 1) for _ in range(16)]
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raw = np.frombuffer(zlib.decompress(self.records[index % len(self.records)]), dtype=np.uint8)
        return {"input_ids": torch.from_numpy(raw[index : index + 32].astype(np.int64)), "labels": index % 10}


class TinyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, input_ids, labels=None):
        logits = self.head(self.embed(input_ids).mean(dim=1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class PrintLosses(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            print(f"epoch {round(state.epoch) - 1} done loss={float(logs['loss']):.6f}", flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=16,
            learning_rate=0.01,
            eval_strategy="epoch",
            logging_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        )
        trainer = Trainer(
            model=TinyModel(),
            args=arguments,
            train_dataset=TokenDataset(TRAIN_SAMPLES),
            eval_dataset=TokenDataset(VAL_SAMPLES),
            callbacks=[PrintLosses()],
        )
        trainer.train()


if __name__ == "__main__":
    main()
