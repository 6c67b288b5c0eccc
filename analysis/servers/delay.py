"""A TCP proxy that hands on what a client sends after a delay, and at once what comes back.

    python -m analysis.servers.delay PORT SECONDS UPSTREAM_PORT [UPSTREAM_PORT]...

For a request that fits into one segment, that is the latency until the first byte of an object store. Connections
are kept, any number at a time, and no delay holds up another. They go round the upstream ports.
"""

import asyncio
import itertools
import sys

from plumb.host.process_control import end_with_parent


class Upstream(asyncio.Protocol):
    """The connection to the server: what comes goes to the client."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.close()


class Client(asyncio.Protocol):
    """The connection from a client: what comes goes to the server, later."""

    def __init__(self, upstream_port: int, delay_seconds: float) -> None:
        self._upstream_port = upstream_port
        self._delay_seconds = delay_seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        connecting = self._loop.create_connection(lambda: Upstream(transport), "127.0.0.1", self._upstream_port)
        self._connecting = self._loop.create_task(connecting)

    def data_received(self, data: bytes) -> None:
        self._loop.call_later(self._delay_seconds, self._hand_on, data)

    def connection_lost(self, error: Exception | None) -> None:
        self._loop.call_later(self._delay_seconds, self._end)

    def _hand_on(self, data: bytes) -> None:
        self._when_connected(lambda upstream: upstream.write(data))

    def _end(self) -> None:
        self._when_connected(lambda upstream: upstream.close())

    def _when_connected(self, act) -> None:
        self._connecting.add_done_callback(lambda task: None if task.exception() else act(task.result()[0]))


async def relay(port: int, delay_seconds: float, upstream_ports: list[int]) -> None:
    """Relays until it is killed."""
    turns = itertools.cycle(upstream_ports)
    server = await asyncio.get_running_loop().create_server(
        lambda: Client(next(turns), delay_seconds), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(relay(int(sys.argv[1]), float(sys.argv[2]), [int(port) for port in sys.argv[3:]]))
