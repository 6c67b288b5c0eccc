"""A character model: a loader with a `next` of its own, and a checkpoint whenever the loss is better."""

import os

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.sampler import RandomSampler

WORK, STEPS, EVAL_EVERY = "out", 60, 20


class CharDataset(Dataset):
    def __init__(self, words, chars, max_word_length):
        self.words, self.chars, self.max_word_length = words, chars, max_word_length
        self.stoi = {ch: i + 1 for i, ch in enumerate(chars)}

    def __len__(self):
        return len(self.words)

    def encode(self, word):
        return torch.tensor([self.stoi[letter] for letter in word], dtype=torch.long)

    def __getitem__(self, index):
        ix = self.encode(self.words[index])
        x = torch.zeros(self.max_word_length + 1, dtype=torch.long)
        y = torch.zeros(self.max_word_length + 1, dtype=torch.long)
        x[1 : 1 + len(ix)] = ix
        y[: len(ix)] = ix
        y[len(ix) + 1 :] = -1
        return x, y


class InfiniteDataLoader:
    """Never ends, by a sampler of ten thousand million draws."""

    def __init__(self, dataset, **kwargs):
        train_sampler = RandomSampler(dataset, replacement=True, num_samples=int(1e10))
        self.train_loader = DataLoader(dataset, sampler=train_sampler, **kwargs)
        self.data_iter = iter(self.train_loader)

    def next(self):
        try:
            batch = next(self.data_iter)
        except StopIteration:
            self.data_iter = iter(self.train_loader)
            batch = next(self.data_iter)
        return batch


@torch.inference_mode()
def evaluate(model, dataset, batch_size=50, max_batches=None):
    model.eval()
    loader = DataLoader(dataset, shuffle=True, batch_size=batch_size, num_workers=0)
    losses = []
    for number, batch in enumerate(loader):
        losses.append(loss_of(model, batch).item())
        if max_batches is not None and number >= max_batches:
            break
    model.train()
    return sum(losses) / len(losses)


def loss_of(model, batch):
    logits = model(batch[0])
    return nn.functional.cross_entropy(logits.view(-1, logits.size(-1)), batch[1].view(-1), ignore_index=-1)


def main():
    torch.manual_seed(3407)
    os.makedirs(WORK, exist_ok=True)
    syllables = ["an", "el", "is", "mo", "ri", "ta", "ven", "zo"]
    words = [a + b + c for a in syllables for b in syllables for c in ("", "na", "ro")]
    chars = sorted(set("".join(words)))
    train_dataset, test_dataset = (CharDataset(part, chars, 8) for part in (words[:160], words[160:]))
    model = nn.Sequential(nn.Embedding(len(chars) + 1, 16), nn.Linear(16, len(chars) + 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch_loader = InfiniteDataLoader(train_dataset, batch_size=32, pin_memory=True, num_workers=1)
    best_loss, step = None, 0
    log = open(os.path.join(WORK, "loss.log"), "a")  # noqa: SIM115
    while True:
        batch = batch_loader.next()
        loss = loss_of(model, batch)
        model.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        log.write(f"{step} {loss.item():.6f}\n")
        if step % 10 == 0:
            print(f"step {step} loss={loss.item():.6f}", flush=True)
        if step > 0 and step % EVAL_EVERY == 0:
            train_loss = evaluate(model, train_dataset, batch_size=100, max_batches=1)
            test_loss = evaluate(model, test_dataset, batch_size=100, max_batches=1)
            print(f"step {step} train loss={train_loss:.6f} test loss={test_loss:.6f}", flush=True)
            if best_loss is None or test_loss < best_loss:
                torch.save(model.state_dict(), os.path.join(WORK, "model.pt"))
                best_loss = test_loss
        step += 1
        if step >= STEPS:
            break
    log.close()


if __name__ == "__main__":
    main()
