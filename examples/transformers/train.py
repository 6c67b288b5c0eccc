"""Trains a small BERT on made-up reviews with the Trainer of Hugging Face, which makes the loaders itself.

What it shows: the script has no loader of its own that an argument could be given to. The report names the fields of
`TrainingArguments` instead. It needs transformers and accelerate: `pip install transformers accelerate`.

    python examples/transformers/train.py         train as it is; nothing is downloaded
    plumb tune examples/transformers/train.py     find the best configuration, and the fields to set
    plumb run examples/transformers/train.py      train on the plan that the tuning wrote
"""

import argparse
import tempfile

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

SYLLABLES = ["ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "wo", "zu"]
PIECES = ["[PAD]", "[CLS]", "[SEP]", *SYLLABLES, *(first + second for first in SYLLABLES for second in SYLLABLES)]
NUMBERS = {piece: number for number, piece in enumerate(PIECES)}
LONGEST_PIECE = max(map(len, SYLLABLES)) * 2


def make_reviews(count, seed):
    """Return reviews of 30 to 60 made-up words, and whether each has more of the 40 kind words than of the others."""
    rng = np.random.default_rng(seed)
    # The words are the same for each seed.
    spelling = np.random.default_rng(20240229)
    words = ["".join(spelling.choice(SYLLABLES, length)) for length in spelling.integers(1, 6, 80)]
    labels = rng.integers(0, 2, count)
    lengths = rng.integers(30, 61, count)
    is_kind = [rng.random(length) < 0.35 + 0.3 * label for length, label in zip(lengths, labels, strict=True)]
    return [" ".join(words[rng.integers(40) + 40 * kind] for kind in kinds) for kinds in is_kind], labels.tolist()


def split_word(word):
    """Return the numbers of a word's pieces, the longest that fits first, as the tokenizers of BERT do."""
    numbers, start = [], 0
    while start < len(word):
        end = min(start + LONGEST_PIECE, len(word))
        while word[start:end] not in NUMBERS:
            end -= 1
        numbers.append(NUMBERS[word[start:end]])
        start = end
    return numbers


class ReviewDataset(Dataset):
    def __init__(self, count, seed):
        self.reviews, self.labels = make_reviews(count, seed)

    def __len__(self):
        return len(self.reviews)

    def __getitem__(self, index):
        pieces = [number for word in self.reviews[index].split() for number in split_word(word)]
        return {"input_ids": [NUMBERS["[CLS]"], *pieces, NUMBERS["[SEP]"]], "labels": self.labels[index]}


def pad_batch(samples):
    """Return the samples as tensors, padded to the longest one."""
    longest = max(len(sample["input_ids"]) for sample in samples)
    padded = [sample["input_ids"] + [0] * (longest - len(sample["input_ids"])) for sample in samples]
    input_ids = torch.tensor(padded)
    labels = torch.tensor([sample["labels"] for sample in samples])
    return {"input_ids": input_ids, "attention_mask": (input_ids != 0).long(), "labels": labels}


class PrintProgress(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **others):
        if "eval_loss" in logs:
            print(f"epoch {round(state.epoch)}: validation loss {logs['eval_loss']:.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description="Train a small BERT to tell kind reviews from others.")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="dataloader_num_workers")
    args = parser.parse_args()
    # The step stands in for an accelerator's, and leaves the cores to the data.
    torch.set_num_threads(1)
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=16,
            learning_rate=2e-3,
            dataloader_num_workers=args.workers,
            dataloader_pin_memory=torch.cuda.is_available(),
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        )
        trainer = Trainer(
            model=BertForSequenceClassification(config),
            args=arguments,
            train_dataset=ReviewDataset(800, seed=1),
            eval_dataset=ReviewDataset(100, seed=2),
            data_collator=pad_batch,
            callbacks=[PrintProgress()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


if __name__ == "__main__":
    main()
