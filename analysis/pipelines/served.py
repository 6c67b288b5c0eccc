"""Objects of a server of known capacity (`analysis/servers/slots.py`), each read over a connection of its own."""

import urllib.request
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils.data import Dataset

_NUMBER = 4000


class Objects(Dataset):
    """Objects of 4 KiB, read by urllib."""

    def __init__(self, port):
        self.port = port

    def __len__(self):
        return _NUMBER

    def __getitem__(self, index):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{index}") as answer:
            data = bytearray(answer.read())
        return torch.frombuffer(data, dtype=torch.uint8).float(), index % 10


class ObjectsByHand(Objects):
    """The same, as one writes it who tunes by hand: a batch's objects are read by `threads` threads."""

    def __init__(self, port, threads):
        super().__init__(port)
        self.threads = threads
        self._pool = None

    def __getitems__(self, indices):
        self._pool = self._pool or ThreadPoolExecutor(self.threads)
        return list(self._pool.map(self.__getitem__, indices))


def peak(port):
    """Return the largest number of connections that the server held at once since the last such request."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/peak") as answer:
        return int(answer.read())
