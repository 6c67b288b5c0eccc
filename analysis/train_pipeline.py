"""A training on one of the pipelines, as a script of its own: what `analysis.clock` tunes and runs.

    python analysis/train_pipeline.py PIPELINE [--samples N] [--epochs N]

The step takes its time elsewhere, as that of a device does.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import Subset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.pipelines import NAMES, made

STEP_SECONDS = 0.01


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", choices=NAMES)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    torch.manual_seed(0)
    (pipeline,) = made([args.pipeline])
    if pipeline.batch_sampler is None and not pipeline.is_iterable:
        samples = min(args.samples, len(pipeline.dataset))  # type: ignore[arg-type]
        pipeline = dataclasses.replace(pipeline, dataset=Subset(pipeline.dataset, range(samples)))
    train_loader = pipeline.loader
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.01)
    for epoch in range(args.epochs):
        begun = time.perf_counter()
        for _ in train_loader:
            time.sleep(STEP_SECONDS)
            optimizer.zero_grad()
            weight.sum().backward()
            optimizer.step()
        print(f"epoch {epoch}: {time.perf_counter() - begun:.2f} s", flush=True)


if __name__ == "__main__":
    main()
