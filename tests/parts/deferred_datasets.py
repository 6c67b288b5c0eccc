"""Datasets whose last operators may be deferred, or look as if they might."""

import operator
import random

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from plumb.instrument.recorder import SAMPLE
from plumb.runtime.deferred.placeholder import VariesError
from plumb.runtime.deferred.skipped_operators import CallDeferrer, DeferringCollate, Undeferred
from plumb.runtime.replay.substitution import SubstitutingRecorder, Tree

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
calls_of_normalize = []


def picture(index):
    pixels = np.random.default_rng(index).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def cropped(image):
    left, top = random.randrange(4), random.randrange(4)
    return image.crop((left, top, left + 16, top + 16))


def to_tensor(image):
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1).contiguous().float() / 255


def normalize(tensor):
    calls_of_normalize.append(tensor.shape)
    return (tensor - MEAN) / STD


def standardized(tensor):
    return (tensor - tensor.mean()) / tensor.std()


def in_place(tensor):
    tensor.sub_(MEAN).div_(STD)
    return tensor


class Pictures(Dataset):
    """Pictures with labels, made by `transform`, as a tuple or as a dictionary."""

    def __init__(self, transform, named=False):
        self.transform = transform
        self.named = named

    def __len__(self):
        return 20

    def __getitem__(self, index):
        made = self.transform(picture(index))
        return {"label": index, "picture": made} if self.named else (made, index)


class Joint(Pictures):
    """The transform gets the whole sample, as the second version of torchvision's allows."""

    def __getitem__(self, index):
        return self.transform({"picture": picture(index), "label": index})


class Plain(Pictures):
    """Written as examples/images/train.py is."""

    def __init__(self, named=False):
        super().__init__(lambda image: normalize(to_tensor(cropped(image))), named)

    def __getitem__(self, index):
        image = cropped(picture(index))
        tensor = normalize(to_tensor(image))
        return {"label": index, "picture": tensor} if self.named else (tensor, index)

    def __reduce__(self):
        return Plain, (self.named,)


class Rows(Dataset):
    """Rows of numbers, to which `function` does something in the end."""

    def __init__(self, function, rows):
        self.function = function
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.function(self.rows[index].clone()), index


class Odd(Dataset):
    """A dataset in which the samples of some indices take another way after the scaling."""

    def __init__(self, odd, way):
        self.odd = odd
        self.way = way

    def __len__(self):
        return 20

    def __getitem__(self, index):
        tensor = torch.from_numpy(np.array(cropped(picture(index)))).float()
        if index in self.odd:
            tensor = self.way(tensor)
        return scaled(tensor), index


def scaled(tensor):
    return tensor / 255 - 0.5


class Deferred(Dataset):
    """What a loader with deferred operators loads: the smallest thing that does."""

    def __init__(self, dataset, deferral):
        self.dataset = dataset
        self.deferral = deferral
        self.made_again = 0
        self._answered = None

    def __len__(self):
        return len(self.dataset)

    def __getitems__(self, indices):
        if self._answered is None:
            tree = Tree(step.way for step in self.deferral.steps)
            self._deferring = CallDeferrer(self.deferral)
            answers = {tree.nodes[way]: answer for way, answer in self._deferring.answers.items()}
            self._answered = SubstitutingRecorder(tree, answers)
        try:
            with self._answered:
                samples = [self._answered.enter(SAMPLE, operator.getitem, self.dataset, index) for index in indices]
            return self._deferring.settled(samples)
        except VariesError:
            self.made_again += 1
            return [self.dataset[index] for index in indices]

    def __getstate__(self):
        return {"dataset": self.dataset, "deferral": self.deferral, "made_again": 0, "_answered": None}


def loader(dataset, deferral, collate, **arguments):
    return DataLoader(Deferred(dataset, deferral), collate_fn=DeferringCollate(collate), **arguments)


def batches(loader):
    return list(Undeferred(iter(loader), has_workers=loader.num_workers > 0))
