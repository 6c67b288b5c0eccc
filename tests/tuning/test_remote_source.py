"""A source that is a server of a known capacity: what it is asked for while a loader is tuned, and what is chosen."""

import contextlib
import multiprocessing
import urllib.request

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import plumb
from analysis.servers.slots import serve

SLOTS, SECONDS = 8, 0.03


def _serve(ports, backlog):
    import asyncio
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ports.put(port)
    asyncio.run(serve(port, SLOTS, SECONDS, backlog))


@contextlib.contextmanager
def served(backlog):
    """The port of a server in a process of its own."""
    context = multiprocessing.get_context("fork")
    ports = context.Queue()
    process = context.Process(target=_serve, args=(ports, backlog), daemon=True)
    process.start()
    port = ports.get()
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                peak(port)
                break
        yield port
    finally:
        process.kill()
        process.join()


def peak(port):
    """The largest number of connections that were open at once since this was asked the last time."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/peak") as answer:
        return int(answer.read())


class Objects(Dataset):
    def __init__(self, port):
        self.port = port

    def __len__(self):
        return 4000

    def __getitem__(self, index):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{index}") as answer:
            return torch.frombuffer(bytearray(answer.read()), dtype=torch.uint8)


def at_once(config):
    return max(config.num_workers, 1) * config.fetch_threads


@pytest.mark.slow
@pytest.mark.parametrize("backlog", [5, 128])
def test_a_server_is_never_asked_for_more_than_twice_what_was_good(backlog):
    with served(backlog) as port:
        found = plumb.tune(DataLoader(Objects(port), batch_size=16), budget=15).entry
        most = peak(port)
    source = found.model["situation"]["source"]
    assert 1 <= source["good_reads"] <= 4 * SLOTS
    assert most <= 2 * source["good_reads"]
    assert at_once(found.config) <= max(source["most_reads"], 2 * source["good_reads"])
    assert any("the samples' source gives" in note for note in found.notes), found.notes


@pytest.mark.slow
def test_no_more_connections_are_asked_for_than_the_user_allows():
    with served(128) as port:
        limits = plumb.Limits.detect().lowered(max_connections=3)
        found = plumb.tune(DataLoader(Objects(port), batch_size=16), budget=8, limits=limits)
        assert peak(port) <= 3
    assert at_once(found.config) <= 3
