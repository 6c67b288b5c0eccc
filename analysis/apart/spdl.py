"""SPDL: samples by a stage of threads, then collated by another; or whole batches by processes."""

import functools
import itertools
from concurrent.futures import ProcessPoolExecutor

from spdl.pipeline import PipelineBuilder

from analysis.apart.job import answer, read_job


@functools.cache
def loaded():
    """Return the dataset and its collate function, read once in each process."""
    return read_job().load()


def sample(index):
    """One sample."""
    return loaded()[0][index]


def collated(samples):
    """Return a batch of samples that are loaded already."""
    return loaded()[1](samples)


def batch(indices):
    """Return a batch, made as a whole."""
    return collated([sample(index) for index in indices])


def make(job, batches, for_ever):
    """Return the pipeline with as much concurrency as the settings say."""
    source = itertools.cycle(batches) if for_ever else batches
    count, order = job.settings["concurrency"], "completion" if for_ever else "input"
    builder = PipelineBuilder()
    if job.settings["processes"]:
        builder.add_source(source)
        builder.pipe(batch, executor=ProcessPoolExecutor(count), concurrency=count, output_order=order)
    elif job.is_uneven:
        builder.add_source(source).pipe(batch, concurrency=count, output_order=order)
    else:
        builder.add_source(itertools.chain.from_iterable(source))
        builder.pipe(sample, concurrency=count, output_order=order).aggregate(len(batches[0])).pipe(collated)
    pipeline = builder.add_sink(3).build(num_threads=count + 1)
    with pipeline.auto_stop():
        yield from pipeline


if __name__ == "__main__":
    job = read_job()
    answer(job, lambda batches, for_ever: make(job, batches, for_ever), ["spdl"])
