"""A pair of loaders, labelled and not, that are advanced by `next`, and begun again by hand where one has ended."""

import copy
import os

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler

EPOCHS, EVAL_STEP, BATCH, MU = 2, 12, 4, 3


class Images(Dataset):
    def __init__(self, first, count, transform):
        self.numbers, self.transform = list(range(first, first + count)), transform

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        number = self.numbers[index]
        image = np.random.default_rng(number).integers(0, 256, (3, 20, 20), dtype=np.uint8)
        return self.transform(image, number), number % 10


def weak(image, number):
    return torch.from_numpy(np.roll(image, number % 3, 2).astype(np.float32) / 255)


def strong(image, number):
    image = image.copy()
    image[:, number % 10 : number % 10 + 8, 4:12] = 127
    return torch.from_numpy(np.ascontiguousarray(image[:, ::-1]).astype(np.float32) / 255)


class TransformFixMatch:
    def __call__(self, image, number):
        return weak(image, number), strong(image, number)


def save_checkpoint(state, is_best):
    os.makedirs("results", exist_ok=True)
    torch.save(state, "results/checkpoint.pth.tar")
    if is_best:
        torch.save(state, "results/model_best.pth.tar")


def main():
    torch.manual_seed(5)
    labeled = DataLoader(
        Images(0, 16, weak),
        sampler=RandomSampler(Images(0, 16, weak), replacement=True, num_samples=40),
        batch_size=BATCH,
        num_workers=0,
        drop_last=True,
    )
    unlabeled_set = Images(1000, 90, TransformFixMatch())
    unlabeled = DataLoader(
        unlabeled_set, sampler=RandomSampler(unlabeled_set), batch_size=BATCH * MU, num_workers=0, drop_last=True
    )
    test_set = Images(5000, 40, weak)
    test_loader = DataLoader(test_set, sampler=SequentialSampler(test_set), batch_size=20)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1200, 10))
    ema = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, nesterov=True)
    best_acc = 0.0
    labeled_iter, unlabeled_iter = iter(labeled), iter(unlabeled)
    for epoch in range(EPOCHS):
        total = 0.0
        for _ in range(EVAL_STEP):
            try:
                inputs_x, targets_x = next(labeled_iter)
            except StopIteration:
                labeled_iter = iter(labeled)
                inputs_x, targets_x = next(labeled_iter)
            try:
                (inputs_u_w, inputs_u_s), _ = next(unlabeled_iter)
            except StopIteration:
                unlabeled_iter = iter(unlabeled)
                (inputs_u_w, inputs_u_s), _ = next(unlabeled_iter)
            logits = model(torch.cat((inputs_x, inputs_u_w, inputs_u_s)))
            logits_x, (logits_u_w, logits_u_s) = logits[:BATCH], logits[BATCH:].chunk(2)
            pseudo = logits_u_w.detach().softmax(-1).argmax(-1)
            loss = nn.functional.cross_entropy(logits_x, targets_x) + nn.functional.cross_entropy(logits_u_s, pseudo)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for kept, parameter in zip(ema.parameters(), model.parameters()):
                    kept.mul_(0.9).add_(parameter, alpha=0.1)
            total += loss.item()
        with torch.no_grad():
            acc = sum((ema(inputs).argmax(1) == targets).sum().item() for inputs, targets in test_loader)
        print(f"epoch {epoch} loss={total / EVAL_STEP:.6f} acc={acc}", flush=True)
        save_checkpoint({"epoch": epoch + 1, "ema": ema.state_dict(), "acc": acc}, acc > best_acc)
        best_acc = max(acc, best_acc)


if __name__ == "__main__":
    main()
