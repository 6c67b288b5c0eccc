"""Largest number of answers per second of a server: clients that do nothing else.

python -m analysis.servers.load PORT CONNECTIONS SECONDS PATH [PATH]...
"""

import asyncio
import contextlib
import itertools
import sys

from plumb.host.process_control import end_with_parent


async def ask(port: int, paths: list[str], answers: list[str]) -> None:
    """Request one path after another, over one connection as long as it lasts, and note the answers."""
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                for path in itertools.cycle(paths):
                    await _one(reader, writer, path)
                    answers.append(path)
            finally:
                writer.close()


async def _one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))


async def rate(port: int, connections: int, seconds: float, paths: list[str]) -> float:
    """Answers per second over `connections` at a time."""
    answers: list[str] = []
    clients = [asyncio.create_task(ask(port, paths, answers)) for _ in range(connections)]
    await asyncio.wait(clients, timeout=seconds)
    count = len(answers)
    for client in clients:
        client.cancel()
    return count / seconds


if __name__ == "__main__":
    end_with_parent()
    print(asyncio.run(rate(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])))
