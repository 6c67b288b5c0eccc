"""How many answers a second a server gives at most: clients that do nothing else.

python -m analysis.servers.load PORT CONNECTIONS SECONDS PATH [PATH]...
"""

import asyncio
import itertools
import sys
import time

from plumb.processes import end_with_parent


async def ask(port: int, paths: list[str], first: int, until: float) -> int:
    """Requests one path after another over one connection; the number of whole answers by `until`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = 0
    for path in itertools.islice(itertools.cycle(paths), first, None):
        if time.perf_counter() >= until:
            break
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        answers += 1
    writer.close()
    return answers


async def rate(port: int, connections: int, seconds: float, paths: list[str]) -> float:
    """Answers per second over `connections` at a time."""
    begun = time.perf_counter()
    counts = await asyncio.gather(*(ask(port, paths, first, begun + seconds) for first in range(connections)))
    return sum(counts) / (time.perf_counter() - begun)


if __name__ == "__main__":
    end_with_parent()
    print(asyncio.run(rate(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])))
