"""Serves made-up objects over HTTP on 127.0.0.1, as slowly as a far object store does; no account is needed.

A request takes at least 10 ms, and 16 requests are served at once: one reader gets fewer than 100 objects/s, and many
readers together fewer than 1,600/s, as far as the CPUs allow.

    python examples/remote/object_store.py       print the address, and serve (train.py does that by itself)
"""

import contextlib
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

SECONDS_PER_REQUEST = 0.010
REQUESTS_AT_ONCE = 16
VALUES = 4_096
CLASSES = 4


def label_of(number):
    return number % CLASSES


def content_of(number):
    """Return the bytes of an object: noise with a mean that depends on its class."""
    noise = np.random.default_rng(number).normal(0, 40, VALUES)
    return (100 + 15 * label_of(number) + noise).clip(0, 255).astype(np.uint8).tobytes()


class Handler(BaseHTTPRequestHandler):
    places = threading.Semaphore(REQUESTS_AT_ONCE)

    def do_GET(self):
        with self.places:
            time.sleep(SECONDS_PER_REQUEST)
        content = content_of(int(self.path.strip("/")))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    # The number of connections that may wait to be accepted; Python's own default is 5.
    request_queue_size = 128


@contextlib.contextmanager
def running_store():
    """Serve objects from a process of their own, and give the address."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def main():
    with Server(("127.0.0.1", 0), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
