"""Serves the files of a folder as an S3 server serves the objects of buckets: `GET` and `HEAD` of /bucket/key.

    python -m analysis.servers.objects PORT FOLDER

It knows nothing else of S3, which is enough for a client that reads. Made so that the server isn't what is measured:
the files are in memory, and a request costs it little.
"""

import asyncio
import sys
import zlib
from pathlib import Path

from plumb.host.process_control import end_with_parent


def answers(folder: Path) -> dict[bytes, bytes]:
    """Return the whole answer to a request for each file, by the path that is requested."""
    return {f"/{path.relative_to(folder)}".encode(): _answer(path.read_bytes()) for path in folder.glob("*/*")}


def _answer(body: bytes) -> bytes:
    head = (
        "HTTP/1.1 200 OK\r\nServer: objects\r\nContent-Type: binary/octet-stream\r\n"
        "Last-Modified: Fri, 01 Mar 2024 00:00:00 GMT\r\nAccept-Ranges: bytes\r\n"
        f'ETag: "{zlib.crc32(body):032x}"\r\nContent-Length: {len(body)}\r\n\r\n'
    )
    return head.encode() + body


MISSING = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: application/xml\r\nContent-Length: 44\r\n\r\n"
    b"<Error><Code>NoSuchKey</Code></Error>       "
)


class Connection(asyncio.Protocol):
    """One client's connection, kept alive; requests have no bodies."""

    def __init__(self, known: dict[bytes, bytes]) -> None:
        self._known = known
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._waiting = (self._waiting + data).split(b"\r\n\r\n")
        for head in heads:
            method, target, _ = head.split(b" ", 2)
            answer = self._known.get(target.partition(b"?")[0], MISSING)
            self._transport.write(answer if method == b"GET" else answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")


async def serve(port: int, folder: Path) -> None:
    """Serve until the process is killed."""
    known = answers(folder)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(known), "127.0.0.1", port, backlog=1024, reuse_port=True
    )
    await server.serve_forever()


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
