"""Trains a small language model on a memory-mapped file of tokens, in the way most text training scripts are written.

What it shows: a sample costs a few microseconds, so that there is nothing to gain. Worker processes only add the work
of handing every batch over, and the right answer is to leave `num_workers` at 0.

    python examples/text/train.py                  train as it is; the first run writes 10 million tokens (20 MB)
    python examples/text/train.py --workers 2      the same with workers: slower
    plumb tune examples/text/train.py              see that nothing is to be gained, and why
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

DEFAULT_FILE = Path(__file__).resolve().parent / "data" / "tokens.bin"
VOCABULARY = 512


def write_tokens(path, count=10_000_000, seed=20240229):
    """Write a made-up text: words of 2 to 8 tokens from a fixed list, some far more frequent than others."""
    print(f"writing {count:,} tokens to {path}", flush=True)
    rng = np.random.default_rng(seed)
    words, longest = 2000, 8
    spelling = rng.integers(0, VOCABULARY, (words, longest), dtype=np.uint16)
    length = rng.integers(2, longest + 1, words)
    frequency = 1 / np.arange(1, words + 1)
    text = rng.choice(words, size=count // 4, p=frequency / frequency.sum())
    tokens = spelling[text][np.arange(longest) < length[text, None]][:count]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    tokens.tofile(draft)
    draft.rename(path)


class TokenDataset(Dataset):
    """Blocks of a token file; each is returned with the tokens that follow its own by one place."""

    def __init__(self, path, block_size, first=0.0, last=1.0):
        tokens = np.memmap(path, dtype=np.uint16, mode="r")
        self.tokens = tokens[int(len(tokens) * first) : int(len(tokens) * last)]
        self.block_size = block_size

    def __len__(self):
        return (len(self.tokens) - 1) // self.block_size

    def __getitem__(self, index):
        start = index * self.block_size
        block = torch.from_numpy(self.tokens[start : start + self.block_size + 1].astype(np.int64))
        return block[:-1], block[1:]


class BagOfTokens(nn.Module):
    """Predicts the next token from the last one, the one before, and the mean of all earlier ones."""

    def __init__(self, width=64):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.mix = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.LayerNorm(width))
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens):
        last = self.embed(tokens)
        before = nn.functional.pad(last, (0, 0, 1, 0))[:, :-1]
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        mean = last.cumsum(dim=1) / places[:, None]
        return self.head(self.mix(torch.cat([last, before, mean], dim=-1)))


def loss_of(model, inputs, targets):
    return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@torch.no_grad()
def evaluate(model, val_loader, device):
    model.eval()
    losses = [loss_of(model, inputs.to(device), targets.to(device)) for inputs, targets in val_loader]
    return torch.stack(losses).mean().item()


def parse_arguments():
    parser = argparse.ArgumentParser(description="Train a small language model on a file of uint16 tokens.")
    parser.add_argument("--data", type=Path, default=DEFAULT_FILE)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--block-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=0, help="num_workers of both loaders")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--checkpoint", type=Path, help="where to save the model after each epoch")
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.manual_seed(0)
    if args.data == DEFAULT_FILE and not args.data.exists():
        write_tokens(args.data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    train_set = TokenDataset(args.data, args.block_size, last=0.95)
    val_set = TokenDataset(args.data, args.block_size, first=0.95)
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True, num_workers=args.workers)
    val_loader = DataLoader(val_set, batch_size=args.batch_size, num_workers=args.workers)

    model = BagOfTokens().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    for epoch in range(1, args.epochs + 1):
        model.train()
        started = time.perf_counter()
        for step, (inputs, targets) in enumerate(train_loader, start=1):
            loss = loss_of(model, inputs.to(device), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 500 == 0:
                print(f"  step {step} of {len(train_loader)}: loss {loss.item():.3f}", flush=True)
        rate = len(train_set) / (time.perf_counter() - started)
        print(
            f"epoch {epoch}: validation loss {evaluate(model, val_loader, device):.3f}, {rate:.0f} blocks/s", flush=True
        )
        if args.checkpoint:
            torch.save(
                {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, args.checkpoint
            )


if __name__ == "__main__":
    main()
