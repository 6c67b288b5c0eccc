"""loadtune, told of the dataset by a workload whose training step takes no time, so that all is about its data."""

import json
from importlib.metadata import version

import torch
from loadtune import tune
from loadtune.workload import Workload

from analysis.apart.job import ANSWER, read_job


def step(model, optimizer, batch, device):
    """Nothing that takes time."""
    return torch.zeros(())


def workload(job):
    """Return the dataset in the form that loadtune takes."""
    dataset, collate = job.load()
    return Workload(
        name="pipeline",
        make_dataset=lambda: dataset,
        make_model=lambda: torch.nn.Linear(1, 1),
        train_step=step,
        make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        default_batch_size=int(job.samples_per_batch),
        collate_fn=collate,
    )


if __name__ == "__main__":
    job = read_job()
    steps = job.settings["steps"]
    result = tune(workload(job), steps=steps, warmup=max(1, steps // 10), verbose=False)
    won = result.best is not None and result.best.throughput > result.baseline.throughput
    knobs = result.best.knobs.to_dict() if won else dict(result.baseline.knobs)
    workers = knobs["num_workers"]
    config = {
        "num_workers": workers,
        "prefetch_factor": (knobs["prefetch_factor"] or 2) if workers else None,
        "persistent_workers": bool(workers and knobs["persistent_workers"]),
        "pin_memory": knobs["pin_memory"],
    }
    note = f"loadtune {version('loadtune')}, {len(result.trials)} trials of {steps} steps; {result.diagnosis}"
    print(ANSWER + json.dumps({"config": config, "note": note.partition("\n")[0]}), flush=True)
