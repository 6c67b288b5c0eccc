"""The parts that small training scripts in the tests are made of."""

PREAMBLE = """
import functools, itertools, os, queue, sys, threading, time
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, get_worker_info

class Numbers(Dataset):
    def __init__(self, length=64, seconds=0.001):
        self.length, self.seconds = length, seconds
    def __len__(self):
        return self.length
    def __getitem__(self, index):
        if index >= self.length:
            raise IndexError(index)
        time.sleep(self.seconds)
        return torch.full((8,), float(index)), index % 3

class Descent:
    # Torch's own optimizers import its compiler, which takes as long again as torch itself, in hundreds of processes.
    def __init__(self, parameters, lr):
        self.parameters, self.lr = list(parameters), lr
    def zero_grad(self):
        for parameter in self.parameters:
            parameter.grad = None
    @torch.no_grad()
    def step(self):
        for parameter in self.parameters:
            parameter -= self.lr * parameter.grad

model = nn.Linear(8, 3)
optimizer = Descent(model.parameters(), lr=1e-4)

def train_step(x, y):
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    time.sleep(0.002)
"""

LOOP = """
for epoch in range(1000):
    for x, y in {loader}:
        train_step(x, y)
"""
