"""An example of accelerate's: loaders that it prepares, padding in collate, metrics gathered, its state saved."""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, Dataset

PAIRS, EPOCHS = 120, 2


class Pairs(Dataset):
    def __init__(self, first, count):
        self.first, self.count = first, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        number = self.first + index
        ids = [(number * 7 + place) % 50 + 1 for place in range(4 + number % 9)]
        return {"input_ids": ids, "labels": number % 2}


def get_dataloaders(accelerator, batch_size):
    def collate_fn(examples):
        longest = max(len(example["input_ids"]) for example in examples)
        ids = [example["input_ids"] + [0] * (longest - len(example["input_ids"])) for example in examples]
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor([example["labels"] for example in examples])}

    train = DataLoader(Pairs(0, PAIRS), shuffle=True, collate_fn=collate_fn, batch_size=batch_size, drop_last=True)
    evaluation = DataLoader(Pairs(5000, 40), shuffle=False, collate_fn=collate_fn, batch_size=16)
    return train, evaluation


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(51, 16), nn.Linear(16, 2)

    def forward(self, input_ids, labels):
        logits = self.head(self.embedding(input_ids).mean(1))
        return nn.functional.cross_entropy(logits, labels), logits


def main():
    set_seed(42)
    accelerator = Accelerator(cpu=True)
    train_dataloader, eval_dataloader = get_dataloaders(accelerator, 8)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model, optimizer, train_dataloader, eval_dataloader = accelerator.prepare(
        model, optimizer, train_dataloader, eval_dataloader
    )
    for epoch in range(EPOCHS):
        model.train()
        total = 0.0
        for step, batch in enumerate(train_dataloader):
            with accelerator.accumulate(model):
                loss, _ = model(**batch)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                total += loss.item()
        model.eval()
        right = 0
        for batch in eval_dataloader:
            with torch.no_grad():
                _, logits = model(**batch)
            predictions, references = accelerator.gather_for_metrics((logits.argmax(-1), batch["labels"]))
            right += (predictions == references).sum().item()
        accelerator.print(f"epoch {epoch} loss={total / (step + 1):.6f} right={right}", flush=True)
        accelerator.save(accelerator.unwrap_model(model).state_dict(), f"epoch_{epoch}.bin")


if __name__ == "__main__":
    main()
