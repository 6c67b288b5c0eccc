"""FFCV: the images in a file of its own, which threads of compiled code decode, crop, flip and normalise."""

import time
from pathlib import Path

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter
from PIL import Image

from analysis.apart.job import answer, read_job

_SIZE = 224
_MEAN, _STD = np.array([0.485, 0.456, 0.406]) * 255, np.array([0.229, 0.224, 0.225]) * 255


class Pictures:
    """Images and labels as FFCV's writer takes them."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        path, label = self.images[index]
        return np.asarray(Image.open(path).convert("RGB")), label


def written(job):
    """FFCV's file of the images, made where it is missing; the time that this takes is kept beside it."""
    path = Path(job.folder) / "images.beton"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        begun, draft = time.perf_counter(), path.with_suffix(".partial")
        fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=90), "label": IntField()}
        DatasetWriter(str(draft), fields, num_workers=job.cores).from_indexed_dataset(Pictures(job.images))
        path.with_suffix(".seconds").write_text(str(time.perf_counter() - begun))
        draft.rename(path)
    return path


def make(job, batches, for_ever):
    """Return the loader with as many threads as the settings say; epochs follow each other."""
    decoder = RandomResizedCropRGBImageDecoder((_SIZE, _SIZE), scale=(0.25, 1.0), ratio=(1.0, 1.0))
    image = [decoder, RandomHorizontalFlip(), NormalizeImage(_MEAN, _STD, np.float32), ToTensor(), ToTorchImage()]
    loader = Loader(
        str(written(job)),
        batch_size=len(batches[0]),
        num_workers=job.settings["threads"],
        order=OrderOption.RANDOM if for_ever else OrderOption.SEQUENTIAL,
        os_cache=True,
        drop_last=True,
        indices=None if for_ever else [index for batch in batches for index in batch],
        batches_ahead=job.settings["batches_ahead"],
        pipelines={"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()]},
    )
    while True:
        yield from loader


if __name__ == "__main__":
    job = read_job()
    answer(job, lambda batches, for_ever: make(job, batches, for_ever), ["ffcv"])
