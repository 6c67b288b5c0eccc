"""A plan with everything that a report can show, of a pipeline that was really traced."""

import time
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import plumb
from plumb.core.config import CacheChoice, Config, Rewrites
from plumb.core.plan import EndToEnd, LoaderResult, Measured, Plan, SampleCost, Trial, TuningCost
from plumb.host import Limits
from plumb.model import resource_bounds, stall_shares
from plumb.model.inputs import CutCost, Footprint, ModelInputs, RemainingCpuShare, SearchSpace
from plumb.model.serialization import to_plain

COST = SampleCost(4e-3, 2e-3, 2e-3, 1e-5, 6e5, 0.03)
SITUATION = ModelInputs(
    COST,
    COST,
    Footprint(4e7, 2, 5e7, 3e8, 30),
    Limits(cpus=2, memory_bytes=8e9),
    step_samples_per_second=1500.0,
    samples_per_batch=64.0,
    batch_seconds=(0.2, 0.25, 0.3),
    dataset_samples=1000.0,
    cuts=(CutCost("decode", 1e5, RemainingCpuShare(0.5, 0.5), 1.0, 1e-4),),
)
FREEDOM = SearchSpace(tuple(range(5)))
BEFORE = Config()
AFTER = Config(2, 4, persistent_workers=True, cache=CacheChoice("decode", "memory", 10**8, 1.0))


def decode(raw):
    time.sleep(0.001)
    return np.frombuffer(raw, dtype=np.uint8).reshape(3, 32, 32).astype(np.float32)


def random_flip(image):
    time.sleep(0.001)
    return image[:, :, ::-1] if torch.rand(()) < 0.5 else image


def mixed(image, flipped):
    time.sleep(0.001)
    return torch.from_numpy(np.ascontiguousarray(image + flipped))


class Images(Dataset):
    """Reads, decodes, augments; the last operator takes from two, one of which is not its neighbour."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        image = decode(self.read(index))
        return mixed(image, random_flip(image)), index

    def read(self, index):
        time.sleep(0.001)
        return bytes(3 * 32 * 32)


def graph():
    """The traced graph, as a plan holds it; traced again where a stall of the host made an operator look small."""
    for _ in range(10):
        pipeline = plumb.trace(DataLoader(Images(), batch_size=8), samples=8)
        if {"read", "decode", "random_flip", "mixed"} <= set(pipeline.graph):
            break
    return pipeline.to_node_link()


def loader_plan(traced, **changes):
    """A loader that was tuned in its loop."""
    predicted = resource_bounds.predict(SITUATION, AFTER)
    told = {
        "name": "train_loader",
        "site": "train.py:5",
        "dataset": "Images",
        "batch_size": 64,
        "baseline": Measured(BEFORE, 240.0, (235.0, 246.0)),
        "tuned": Measured(AFTER, 900.0, (880.0, 915.0)),
        "predicted": predicted,
        "samples_per_batch": 64.0,
        "step_samples_per_second": 1500.0,
        "end_to_end": EndToEnd(
            205.0,
            880.0,
            (200.0, 210.0),
            (870.0, 890.0),
            1 - 205 / 1500,
            1 - 880 / 1500,
            stall_shares.step_shares(SITUATION, BEFORE, 205.0, 1 - 205 / 1500),
            stall_shares.step_shares(SITUATION, AFTER, 880.0, 1 - 880 / 1500),
        ),
        "sample": COST,
        "trials": (
            Trial(BEFORE, 250.0, 240.0, (235.0, 246.0), "side by side"),
            Trial(AFTER, 950.0, 900.0, (880.0, 915.0), "side by side"),
            Trial(Config(2, 2), 480.0, 470.0, (450.0, 500.0), "measured, to calibrate"),
            Trial(Config(8, 8), 990.0, None, None, "no room: shared memory"),
        ),
        "rewrites": Rewrites(
            reasons=(
                "no threads for whole samples: random numbers are drawn",
                "Nothing is stored after read: it is another.",
            ),
            summary="8 samples with the stored result of decode",
        ),
        "graph": traced,
        "notes": ("the store is full after the first epoch",),
        "cost": TuningCost(20.0, 10_000.0, 30.0),
        "model": to_plain(SITUATION, FREEDOM),
    }
    return LoaderResult(**{**told, **changes})


def plan_of(*loaders, **changes):
    """A plan of these loaders."""
    told = {
        "script": "train.py",
        "host": {"cpu_model": "Some CPU", "usable_cpus": 2, "packages": {"torch": "2.9"}},
        "tuning_seconds": 20.0,
        "startup_seconds": 2.0,
        "loaders": loaders,
    }
    return Plan(**{**told, **changes})


def among_ranks(graph):
    """The same loader where a part of the training's time goes into waiting for other ranks."""
    loader = loader_plan(graph)
    loop = loader.end_to_end
    shares = {
        f"{side}_shares": stall_shares.step_shares(SITUATION, config, rate, waiting, ranks)
        for side, config, rate, waiting, ranks in (
            ("baseline", BEFORE, loop.baseline, loop.baseline_waiting_share, 0.04),
            ("tuned", AFTER, loop.tuned, loop.tuned_waiting_share, 0.17),
        )
    }
    return replace(loader, end_to_end=replace(loop, **shares))
