"""Jobs for scripts of peers: what a pipeline is to them, and how they are run."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

from analysis.apart.job import ANSWER, Job
from analysis.footprint import Footprint, watched
from analysis.images import ROOT
from analysis.peers.environments import CannotRunError, Environment
from analysis.pipelines.pipeline import DATA, Pipeline
from plumb.host import Limits

_BATCHES_AT_MOST = 4096
_PATIENCE_SECONDS = 180.0


def job_of(pipeline: Pipeline, limits: Limits, **settings: Any) -> Job:
    """Make a job of one epoch of the pipeline's own batches, or a long part of it, with its dataset written beside.

    Nothing is asked of it yet.
    """
    folder = DATA / "peers" / pipeline.name.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    dataset = folder / "dataset.pickle"
    dataset.write_bytes(pickle.dumps((pipeline.dataset, pipeline.collate_fn or default_collate)))
    epoch = [] if pipeline.is_iterable else islice(pipeline.loader.batch_sampler, _BATCHES_AT_MOST)
    return Job(
        settings=settings,
        batches=[list(batch) for batch in epoch],
        samples_per_batch=pipeline.batch_size,
        checked=0,
        seconds=0.0,
        cores=max(1, int(limits.cpus)),
        dataset=str(dataset),
        folder=str(folder),
        images=images_of(pipeline),
    )


def images_of(pipeline: Pipeline) -> list[tuple[str, int]]:
    """Return the paths and labels of an image pipeline; an empty list for others."""
    return list(getattr(pipeline.dataset, "samples", []))


def answer_of(
    environment: Environment, script: str, job: Job, *, watch: bool, patience_seconds: float = _PATIENCE_SECONDS
) -> tuple[dict[str, Any], Footprint]:
    """Return the script's answer to the job, and what it took of the host if `watch`. Raise CannotRunError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        job.write(path)
        process = subprocess.Popen(
            [str(environment.python), "-m", f"analysis.apart.{script}", str(path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples' / 'images'}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            with watched(process.pid) if watch else contextlib.nullcontext(Footprint()) as footprint:
                out, errors = process.communicate(timeout=patience_seconds)
        except subprocess.TimeoutExpired:
            raise CannotRunError(f"no answer within {patience_seconds:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    answers = [line for line in out.splitlines() if line.startswith(ANSWER)]
    if not answers:
        said = [line.strip() for line in errors.splitlines() if line.strip()]
        raise CannotRunError(said[-1] if said else f"it ended with exit code {process.returncode}")
    return json.loads(answers[-1].removeprefix(ANSWER)), footprint
