"""A server of a known capacity: so many answers at a time, each of which takes as long, and a queue of a known length.

    python -m analysis.servers.slots PORT SLOTS SECONDS BACKLOG

`GET /peak` answers with the largest number of connections that were open at once since it was asked the last time; the
asking one isn't counted. All other paths have an answer of 4 KiB that is told by the path.
"""

import asyncio
import hashlib
import sys

from plumb.host.process_control import end_with_parent


class Slots:
    """The server's answers, and how many connections it holds."""

    def __init__(self, slots: int, seconds: float) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._seconds = seconds
        self._open = self._peak = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the one request of a connection."""
        self._open += 1
        before, self._peak = self._peak, max(self._peak, self._open)
        try:
            line = await reader.readline()
            while (await reader.readline()).strip():
                pass
            if line.startswith(b"GET /peak "):
                body, self._peak = b"%d" % before, 0
            else:
                async with self._slots:
                    await asyncio.sleep(self._seconds)
                body = hashlib.sha256(line).digest() * 128
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            self._open -= 1
            writer.close()


async def serve(port: int, slots: int, seconds: float, backlog: int) -> None:
    """Serve until the process is ended."""
    served = Slots(slots, seconds)
    server = await asyncio.start_server(served.answer, "127.0.0.1", port, backlog=backlog)
    await server.serve_forever()


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
