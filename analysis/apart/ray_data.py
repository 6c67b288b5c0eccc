"""Ray Data: rows of indices, mapped to rows of arrays by tasks, and put together into batches as they are iterated."""

import functools
import json
import os
import sys
from pathlib import Path

import numpy as np
import ray

from analysis.apart.contents import leaves
from analysis.apart.job import Job, answer, read_job

_BLOCKS, _BATCHES_PER_BLOCK = 1000, 2


@functools.cache
def loaded(path):
    """Return the dataset and its collate function, read once in each process of Ray's."""
    return Job(**json.loads(Path(path).read_text())).load()


def rows(table, path, order):
    """Columns of arrays for a table of places in the order of indices."""
    dataset, collate = loaded(path)
    samples = [dataset[order[place % len(order)]] for place in table["id"]]
    return {str(number): array for number, array in enumerate(leaves(collate(samples)))}


def make(job, path, batches, for_ever):
    """Return a dataset that is long enough never to end."""
    order, size = [index for batch in batches for index in batch], len(batches[0])
    count = _BLOCKS * _BATCHES_PER_BLOCK * size if for_ever else len(order)
    ray.data.DataContext.get_current().execution_options.preserve_order = not for_ever
    dataset = ray.data.range(count, override_num_blocks=_BLOCKS if for_ever else len(batches)).map_batches(
        rows, batch_size=size, fn_kwargs={"path": path, "order": order}
    )
    batches = dataset.iter_batches(batch_size=size, prefetch_batches=job.settings["prefetch_batches"])
    return ([np.asarray(batch[name]) for name in sorted(batch, key=int)] for batch in batches)


def main():
    """Do the job on a Ray of its own."""
    job = read_job()
    ray.init(
        num_cpus=job.cores,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=job.settings["store_bytes"],
        runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        answer(job, lambda batches, for_ever: make(job, sys.argv[1], batches, for_ever), ["ray"])
    finally:
        ray.shutdown()


if __name__ == "__main__":
    # Ray's processes find the functions by the module's name, which is another one here.
    from analysis.apart import ray_data

    ray_data.main()
