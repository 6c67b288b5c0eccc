"""Fails before any loader is made: a key of the configuration is misspelt."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CONFIG = {"batch_size": 16, "learning_rate": 0.1}


def build_model(config):
    model = nn.Linear(64, 10)
    return model, torch.optim.SGD(model.parameters(), lr=config["lr"])


model, optimizer = build_model(CONFIG)
train_loader = DataLoader(TensorDataset(torch.zeros(100, 64)), batch_size=CONFIG["batch_size"])
