"""dataloader-param-helper, called as its documents say, in a folder where it has kept no result of another time."""

import contextlib
import io
import json
import os
import tempfile
from importlib.metadata import version

import torch
from dataloader_param_helper import find_optimal_params

from analysis.apart.job import ANSWER, read_job

_PACKAGE = "dataloader-param-helper"


def found(job, device):
    """Return the package's answer; it prints its progress, and writes its result to the current folder."""
    dataset, _ = job.load()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        return find_optimal_params(dataset, device, int(job.samples_per_batch))


if __name__ == "__main__":
    job = read_job()
    note = f"{_PACKAGE} {version(_PACKAGE)}"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        # It synchronises with a GPU after every batch, so without one each of its trials fails.
        torch.cuda.synchronize = lambda: None
        note += ", with its call of torch.cuda.synchronize made harmless, without which it finds nothing on a CPU"
    params = found(job, device)
    workers = params["num_workers"]
    if not workers:
        raise SystemExit(f"none of its trials came to a result: it answers {params}")
    config = {
        "num_workers": workers,
        # It asks torch for bool(prefetch_factor), which is 1, but it tells its user the number.
        "prefetch_factor": params["prefetch_factor"],
        "persistent_workers": bool(params["persistent_workers"]),
        "pin_memory": bool(params["pin_memory"]),
    }
    print(ANSWER + json.dumps({"config": config, "note": note}), flush=True)
