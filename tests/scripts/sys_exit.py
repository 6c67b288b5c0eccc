"""Ends itself by sys.exit with a message, before a loader is made."""

import sys

import torch
from torch.utils.data import DataLoader, TensorDataset

data = torch.zeros(0, 64)
if len(data) == 0:
    sys.exit("bye")
train_loader = DataLoader(TensorDataset(data), batch_size=16)
