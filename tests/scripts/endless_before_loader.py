"""Computes for ever before any loader is made."""

import torch

print("computing statistics of the data set", flush=True)
mean = torch.zeros(1000)
while True:
    mean = 0.99 * mean + 0.01 * torch.randn(1000)
