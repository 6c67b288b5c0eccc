"""Small JPEGs behind a network: one request a sample, by the client that most people use."""

import io
import os
import threading
import urllib.request
from pathlib import Path

import boto3
import numpy as np
import torch
from botocore import UNSIGNED
from botocore.config import Config
from PIL import Image
from torch.utils.data import Dataset

from analysis.pipelines.pictures import example_paths
from analysis.pipelines.pipeline import made_once

BUCKET = "photos"
_FILES, _SIZE = 1024, (160, 120)


def to_tensor(data):
    """Decode and resize a picture."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((96, 96), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class BucketDataset(Dataset):
    """Objects of a public bucket; each process makes its client when it first needs it."""

    def __init__(self, endpoint, keys):
        self.endpoint = endpoint
        self.keys = keys
        self._client = None
        self._pid = None
        self._lock = threading.Lock()

    def __getstate__(self):
        return {**self.__dict__, "_client": None, "_pid": None, "_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())

    def client(self):
        """Return a client of this process's own, which its threads share."""
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._client = boto3.session.Session().client(
                    "s3",
                    endpoint_url=self.endpoint,
                    region_name="us-east-1",
                    config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}),
                )
        return self._client

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        body = self.client().get_object(Bucket=BUCKET, Key=self.keys[index])["Body"].read()
        return to_tensor(body), index % 10


class WebDataset(Dataset):
    """Files of a web server, each over a connection of its own."""

    def __init__(self, address, names):
        self.address = address
        self.names = names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        with urllib.request.urlopen(f"{self.address}/{BUCKET}/{self.names[index]}") as answer:
            return to_tensor(answer.read()), index % 10


def pictures(folder: Path) -> Path:
    """Return a folder with one folder of small pictures, as a server of buckets takes it."""
    return made_once(folder / "remote", _fill)


def _fill(folder):
    (folder / BUCKET).mkdir()
    for number, path in enumerate(example_paths()[:_FILES]):
        small = Image.open(path).convert("RGB").resize(_SIZE)
        small.save(folder / BUCKET / f"{number:05d}.jpg", quality=95)
