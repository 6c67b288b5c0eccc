"""Grain: a map dataset, batched, read by threads, and by as many processes as `pick_performance_config` says."""

import functools
import os

import grain
import numpy as np
from absl import flags

from analysis.apart.job import answer, read_job

_READ_AHEAD_BATCHES = 16


@functools.cache
def loaded():
    """Return the dataset and its collate function, read once in each process."""
    return read_job().load()


class Samples:
    """Makes one sample; processes find the dataset by the job's file."""

    def __call__(self, index):
        return loaded()[0][int(index)]


class Collated:
    """Makes a batch, its tensors as arrays, which Grain hands over through shared memory."""

    def __call__(self, samples):
        return as_arrays(loaded()[1](samples))


class Batches:
    """Makes a batch as a whole."""

    def __call__(self, indices):
        dataset, collate = loaded()
        return as_arrays(collate([dataset[index] for index in indices]))


def as_arrays(batch):
    """Return the same structure without tensors."""
    if isinstance(batch, dict):
        return {key: as_arrays(part) for key, part in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [as_arrays(part) for part in batch]
    return np.asarray(batch)


def make(job, batches, for_ever):
    """Return the dataset's batches; for measuring, by as many processes as Grain's rule says, if settings want any."""
    if job.is_uneven:
        # Whole batches are read ahead, of which Grain's 500 would be too many.
        read = grain.ReadOptions(prefetch_buffer_size=_READ_AHEAD_BATCHES)
        dataset = grain.MapDataset.source(batches).map(Batches())
        dataset = (dataset.repeat() if for_ever else dataset).to_iter_dataset(read)
    else:
        indices = [index for batch in batches for index in batch]
        dataset = grain.MapDataset.source(indices).map(Samples())
        dataset = (dataset.repeat() if for_ever else dataset).to_iter_dataset()
        dataset = dataset.batch(len(batches[0]), batch_fn=Collated())
    if for_ever and job.settings["processes"]:
        picked = grain.experimental.pick_performance_config(
            dataset, ram_budget_mb=job.settings["memory_mb"], max_workers=job.cores, max_buffer_size=None
        )
        if picked.multiprocessing_options and picked.multiprocessing_options.num_workers:
            dataset = dataset.mp_prefetch(picked.multiprocessing_options)
    return dataset


if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    job = read_job()
    answer(job, lambda batches, for_ever: make(job, batches, for_ever), ["grain"])
    # Its processes would be waited for.
    os._exit(0)
