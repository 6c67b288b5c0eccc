"""The Hugging Face Trainer: a small language model on lines of text, with checkpoints, evaluation and a log."""

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

LINES, LENGTH = 96, 24


class LineDataset(Dataset):
    def __init__(self, first, count):
        self.lines = [f"line {first + number} " + "ab" * (number % 5 + 3) for number in range(count)]

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, index):
        letters = [ord(letter) % 64 for letter in self.lines[index]][:LENGTH]
        ids = torch.tensor(letters + [0] * (LENGTH - len(letters)))
        return {"input_ids": ids, "labels": ids.clone()}


class Printer(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        shown = {name: f"{logs[name]:.4f}" for name in ("loss", "eval_loss") if name in (logs or {})}
        if shown:
            print(f"step {state.global_step} {shown}", flush=True)


def main():
    config = GPT2Config(
        vocab_size=64, n_positions=LENGTH, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    arguments = TrainingArguments(
        output_dir="out",
        num_train_epochs=2,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        logging_steps=4,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=42,
    )
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=arguments,
        train_dataset=LineDataset(0, LINES),
        eval_dataset=LineDataset(1000, 16),
        callbacks=[Printer()],
    )
    # It prints how long all took.
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model("out/final")


if __name__ == "__main__":
    main()
