"""DALI on the CPU: its reader, its fused decoder that crops, its resize and its fused flip and normalisation."""

import numpy as np
from nvidia.dali import fn, pipeline_def, types

from analysis.apart.job import answer, read_job

_SIZE = 224
_MEAN, _STD = np.array([0.485, 0.456, 0.406]) * 255, np.array([0.229, 0.224, 0.225]) * 255


@pipeline_def
def images(paths, labels, shuffled):
    """Return a random square part of each image, flipped or not, normalised, channels first."""
    data, numbers = fn.readers.file(files=paths, labels=labels, random_shuffle=shuffled)
    part = fn.decoders.image_random_crop(
        data, device="cpu", output_type=types.RGB, random_area=[0.25, 1.0], random_aspect_ratio=[1.0, 1.0]
    )
    resized = fn.resize(part, resize_x=_SIZE, resize_y=_SIZE, interp_type=types.INTERP_LINEAR)
    normalised = fn.crop_mirror_normalize(
        resized,
        dtype=types.FLOAT,
        output_layout="CHW",
        mean=_MEAN.tolist(),
        std=_STD.tolist(),
        mirror=fn.random.coin_flip(),
    )
    return normalised, numbers


def make(job, batches, for_ever):
    """Return a pipeline with as many threads as the settings say; it copies batches as DALI's torch iterators do."""
    paths, labels = zip(*(job.images[index] for batch in batches for index in batch), strict=True)
    pipeline = images(
        list(paths),
        list(labels),
        for_ever,
        batch_size=len(batches[0]),
        num_threads=job.settings["threads"],
        prefetch_queue_depth=job.settings["prefetch"],
        device_id=None,
        seed=0,
    )
    pipeline.build()
    while True:
        pixels, numbers = pipeline.run()
        yield np.array(pixels.as_tensor()), np.array(numbers.as_tensor()).ravel()


if __name__ == "__main__":
    job = read_job()
    answer(job, lambda batches, for_ever: make(job, batches, for_ever), ["nvidia-dali-cuda120"])
