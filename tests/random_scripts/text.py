"""The source of a recipe's script.

What a script prints is sorted by the first letter of a line: `i` the indices of a batch, `v` its values and the loss,
`s` what the samples' code keeps, `g` a draw from each process-wide generator, `e` how it ends.
"""

from __future__ import annotations

from textwrap import indent

from tests.random_scripts import parts
from tests.random_scripts.recipe import Recipe

_HEAD = """\
import collections
import dataclasses
import functools
import json
import os
import queue
import random
import sys
import threading
import time
import zlib

import numpy as np
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler, ConcatDataset, DataLoader, Dataset, IterableDataset, RandomSampler, Sampler, SequentialSampler,
    Subset, TensorDataset, WeightedRandomSampler, get_worker_info,
)

SAMPLES, BATCH, EPOCHS = {samples}, {batch_size}, {epochs}
OFFSETS = [0.0, 1.0]
SCALE = 1.0
"""

_SHOW = """
def leaves(value):
    if isinstance(value, torch.Tensor):
        yield from (value.unbind() if value.is_nested else [value])
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif dataclasses.is_dataclass(value):
        yield from leaves([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def values_of(batch):
    tensors = [leaf.flatten() for leaf in leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    return torch.cat(tensors)


def shown(batch):
    seen = 0
    for leaf in leaves(batch):
        if isinstance(leaf, torch.Tensor):
            leaf = (str(leaf.dtype), tuple(leaf.shape), leaf.detach().numpy().tobytes())
        seen = zlib.crc32(repr(leaf).encode(), seen)
    return f"{type(batch).__name__} {seen:08x}"


def take(name, epoch, number, batch):
    indices = next(leaves(batch))
    print(f"i {name} {epoch}.{number} {indices.flatten().tolist()}")
    print(f"v {name} {epoch}.{number} {shown(batch)}")
    return values_of(batch)


MODEL = nn.Linear(1, 1)
with torch.no_grad():
    MODEL.weight.fill_(0.5)
    MODEL.bias.fill_(0.25)
STEPS = 0


def learn(values):
    # By hand: torch's optimizers import its compiler, which takes longer than all the rest.
    loss = (MODEL(values[:, None] / 100) - 1).pow(2).mean()
    MODEL.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in MODEL.parameters():
            parameter -= 0.01 * parameter.grad
    return loss.item()


def look(values):
    with torch.no_grad():
        return (MODEL(values[:, None] / 100) - 1).pow(2).mean().item()
"""

_STEP = """
def step(epoch, number, batch):
    global STEPS
    STEPS += 1
    values = take("train", epoch, number, batch)
    loss = {work}(values)
{changes}
    print(f"v loss {{epoch}}.{{number}} {{loss:.6f}}")
    return loss
"""

_MAIN = """\
random.seed({number})
np.random.seed({number})
torch.manual_seed({number})
{start}
{make}
for epoch in range(EPOCHS):
{between}
    losses = []
{loop}
{files}
    print(f"s {{epoch}} {{kept(dataset)}}")
    print(f"g {{epoch}} {{torch.rand(1).item():.6f}} {{np.random.rand():.6f}} {{random.random():.6f}}", flush=True)
{ends}
"""


def source_of(recipe: Recipe) -> str:
    """The script, as its user would have written it."""
    head = _HEAD.format(samples=recipe.samples, batch_size=recipe.batch_size, epochs=recipe.epochs)
    step = _STEP.format(
        work="learn" if recipe.trains else "look", changes=indent(parts.changes_in_step(recipe) or "pass", "    ")
    )
    start = ""
    if recipe.start != "default":
        start = f"torch.multiprocessing.set_start_method({recipe.start!r})\n"
    main = _MAIN.format(
        number=recipe.number,
        start=start,
        make=parts.make(recipe),
        between=indent(parts.changes_between(recipe) or "pass", "    "),
        loop=indent(parts.loop(recipe), "    "),
        files=indent(parts.files(recipe) or "pass", "    "),
        ends=parts.ending(recipe),
    )
    if recipe.guarded:
        main = f'if __name__ == "__main__":\n{indent(main, "    ")}'
    before = (parts.reading, parts.samples, parts.collating, parts.order)
    written = [f"# {recipe}", head, *(part(recipe) for part in before), _SHOW, parts.loops(recipe), step]
    return "\n".join([*written, parts.place(recipe), main])
