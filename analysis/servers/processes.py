"""Servers as processes of their own, on free ports of the loopback, for as long as a benchmark runs."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from analysis.images import ROOT

_UP_SECONDS = 30.0


@contextlib.contextmanager
def running(module: str, *arguments: object) -> Iterator[int]:
    """Run `python -m module PORT arguments`, yield its port once it accepts connections, and end it at last.

    Raises RuntimeError if it doesn't come up.
    """
    port = _free_port()
    command = [sys.executable, "-m", module, str(port), *map(str, arguments)]
    with _ended_at_last(command):
        _wait_for(port, module)
        yield port


@contextlib.contextmanager
def moto(processes: int, folder: Path) -> Iterator[list[int]]:
    """Moto's S3 servers, each with the files of `folder` as objects of buckets; gives their ports."""
    with contextlib.ExitStack() as stack:
        ports = [_free_port() for _ in range(processes)]
        for port in ports:
            stack.enter_context(_ended_at_last([sys.executable, "-m", "moto.server", "-p", str(port)]))
        for port in ports:
            _wait_for(port, "moto")
            _upload(port, folder)
        yield ports


def ceiling(port: int, paths: Sequence[str], connections: int, seconds: float) -> float:
    """Answers per second that the server gives to clients that do nothing else, from a process of their own."""
    command = [sys.executable, "-m", "analysis.servers.load", str(port), str(connections), str(seconds), *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=seconds + 60)
    return float(done.stdout)


def _upload(port: int, folder: Path) -> None:
    import boto3
    from botocore.config import Config

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    for bucket in folder.iterdir():
        client.create_bucket(Bucket=bucket.name, ACL="public-read")
        for path in bucket.iterdir():
            client.put_object(Bucket=bucket.name, Key=path.name, Body=path.read_bytes(), ACL="public-read")


@contextlib.contextmanager
def _ended_at_last(command: list[str]) -> Iterator[None]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(port: int, name: str) -> None:
    until = time.perf_counter() + _UP_SECONDS
    while time.perf_counter() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{name} did not come up on port {port} within {_UP_SECONDS:g} s")
