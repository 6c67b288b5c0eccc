"""Python's own `http.server`, whose answers take a while: good for a few clients, and lost under a burst of them.

    python -m analysis.servers.bursts PORT SECONDS FOLDER

Its queue of connections that nobody has accepted yet holds five. Where more come at once, the kernel drops them, and
the client's kernel tries again only after a second, then two, then four.
"""

import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from plumb.host.process_control import end_with_parent


class Handler(SimpleHTTPRequestHandler):
    """Serves files after a delay, and logs nothing."""

    def __init__(self, *arguments, delay_seconds: float, **keywords) -> None:
        self._delay_seconds = delay_seconds
        super().__init__(*arguments, **keywords)

    def do_GET(self) -> None:
        time.sleep(self._delay_seconds)
        super().do_GET()

    def log_message(self, *arguments) -> None:
        pass


if __name__ == "__main__":
    end_with_parent()
    handler = partial(Handler, delay_seconds=float(sys.argv[2]), directory=sys.argv[3])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), handler).serve_forever()
