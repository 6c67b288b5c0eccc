"""Data behind a network: an S3 bucket with an ordinary latency, and a web server that collapses under bursts.

    python -m analysis.remote [--quick] [--skip bucket|bursts] [--moto PROCESSES]

Each side by side with torch's loader as it is by default, and with the worker count that torch suggests. plumb may
store nothing here, so every sample is fetched, as in a first epoch. `--moto`
serves the bucket by moto's server instead of the small one in `analysis/servers/objects.py`, which is quicker.
Prints and writes `analysis/results/remote.md`.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, SequentialSampler

from analysis import results
from analysis.measuring import Contender, Reading, by_turns, differing_batches, share, stream_of, torch_contender
from analysis.pipelines.pipeline import DATA
from analysis.pipelines.remote import BUCKET, BucketDataset, WebDataset, pictures
from analysis.results import Effort, publish, say, table
from analysis.servers.processes import ceiling, moto, running
from analysis.tuned import Tuned, tune_loader
from plumb.config import Config

FULL, QUICK = Effort(4, 3.0, 120.0), Effort(1, 0.5, 20.0)
LATENCY_SECONDS, BATCH = 0.1, 64
# An answer of the web server takes so long, and its clients come by fours and eights, or by a hundred.
ANSWER_SECONDS = 0.01
BURSTS = (Config(8, 2, True), Config(4, 2, True, fetch_threads=32))
CONNECTIONS, CEILING_SECONDS = 512, 5.0
COMPARED_BATCHES = 4


@dataclass(frozen=True)
class Served:
    """The bucket's port behind the delay, and the most that its servers give: all with the delay, one without."""

    port: int
    ceiling: float
    ceiling_without_delay: float


@contextlib.contextmanager
def bucket(folder: Path, paths: list[str], moto_processes: int) -> Iterator[Served]:
    """The servers of the bucket, with the proxy before them."""
    with contextlib.ExitStack() as stack:
        if moto_processes:
            ports = stack.enter_context(moto(moto_processes, folder))
        else:
            ports = [stack.enter_context(running("analysis.servers.objects", folder))]
        proxy = stack.enter_context(running("analysis.servers.delay", LATENCY_SECONDS, *ports))
        alone = sum(ceiling(port, paths, CONNECTIONS, CEILING_SECONDS) for port in ports) / len(ports)
        yield Served(proxy, ceiling(proxy, paths, CONNECTIONS, CEILING_SECONDS), alone)


def contenders(tuned: Tuned) -> list[Contender]:
    """Torch as it is by default, torch with as many workers as it suggests, and plumb's choice."""
    suggested = len(os.sched_getaffinity(0))
    return [
        torch_contender(tuned.loader, Config(), "torch's default"),
        torch_contender(tuned.loader, Config(suggested, 2, True), f"torch's suggested {suggested} workers"),
        tuned.contender(tuned.config),
    ]


def rows(readings: list[Reading]) -> list[list[str]]:
    """Each reading's rate, and the last one's as a multiple of it."""
    last = readings[-1]
    lines = []
    for reading in readings:
        if not reading.is_measured:
            lines.append([reading.contender.name, reading.error, "", ""])
            continue
        rate = reading.rate
        factor = ""
        if last.is_measured:
            times = share(last, reading)
            factor = f"{times.samples_per_second:.1f} [{times.interval[0]:.1f}, {times.interval[1]:.1f}]"
        low, high = rate.interval
        lines.append([reading.contender.name, f"{rate.samples_per_second:,.1f}", f"{low:,.1f} to {high:,.1f}", factor])
    return lines


def measured(tuned: Tuned, sides: list[Contender], effort: Effort) -> list[Reading]:
    """The sides by turns."""
    return by_turns(sides, stream_of(tuned.loader), BATCH, effort.turns, effort.window_seconds)


def differences(tuned: Tuned) -> int:
    """How many of the first batches plumb's loader makes differently from torch's default, over the same indices."""
    order = SequentialSampler(tuned.loader.dataset)
    batches = [list(order)[start : start + BATCH] for start in range(0, COMPARED_BATCHES * BATCH, BATCH)]
    plain = DataLoader(tuned.loader.dataset, batch_sampler=batches)
    return differing_batches(plain, tuned.make(tuned.config, batches), COMPARED_BATCHES)


def s3(folder: Path, moto_processes: int, effort: Effort) -> list[str]:
    """The bucket: three sides, the share of the server's ceiling, and whether the batches are the same."""
    keys = sorted(path.name for path in (folder / BUCKET).iterdir())
    paths = [f"/{BUCKET}/{key}" for key in keys[:BATCH]]
    with bucket(folder, paths, moto_processes) as served:
        say(f"remote: the bucket is served, at most {served.ceiling:,.0f} answers a second")
        loader = loader_of(BucketDataset(f"http://127.0.0.1:{served.port}", keys))
        tuned = tune_loader(loader, effort.budget_seconds, cache_memory_bytes=0)
        say(f"remote: plumb chose {tuned.config} in {tuned.seconds:.0f} s")
        readings = measured(tuned, contenders(tuned), effort)
        different = differences(tuned)
    kind = f"moto's server in {moto_processes} processes" if moto_processes else "analysis/servers/objects.py"
    reached = readings[-1].rate.samples_per_second / served.ceiling if readings[-1].is_measured else 0.0
    return [
        "## A bucket with a latency",
        "",
        f"{kind}, each request delayed by {LATENCY_SECONDS * 1e3:.0f} ms; boto3; batch {BATCH}. The server gives at "
        f"most {served.ceiling:,.0f} answers/s to {CONNECTIONS} connections through the delay, and "
        f"{served.ceiling_without_delay:,.0f}/s without it from one process; plumb's loader reaches "
        f"{reached:.2f} of the former. Of the first {COMPARED_BATCHES} batches, {different} differ from torch's.",
        "",
        *table(["loader", "samples/s", "interval", "plumb is faster by"], rows(readings)),
        "",
        f"plumb measured for {tuned.seconds:.0f} s.",
        "",
    ]


def collapse(folder: Path, effort: Effort) -> list[str]:
    """The web server: plumb's choice beside a good point and a collapsed one."""
    names = sorted(path.name for path in (folder / BUCKET).iterdir())
    with running("analysis.servers.bursts", ANSWER_SECONDS, folder) as port:
        loader = loader_of(WebDataset(f"http://127.0.0.1:{port}", names))
        tuned = tune_loader(loader, effort.budget_seconds, cache_memory_bytes=0)
        say(f"remote: plumb chose {tuned.config} in {tuned.seconds:.0f} s")
        default, suggested, chosen = contenders(tuned)
        sides = [default, suggested, *(tuned.contender(config) for config in BURSTS), chosen]
        readings = measured(tuned, sides, effort)
    return [
        "## A server that collapses under bursts",
        "",
        f"Python's http.server, whose queue of new connections holds five; an answer takes "
        f"{ANSWER_SECONDS * 1e3:.0f} ms; urllib, a connection for each request; batch {BATCH}.",
        "",
        *table(["loader", "samples/s", "interval", "plumb is faster by"], rows(readings)),
        "",
        f"plumb measured for {tuned.seconds:.0f} s.",
    ]


def loader_of(dataset: Any) -> DataLoader[Any]:
    """The user's own loader."""
    return DataLoader(dataset, BATCH, shuffle=True)


def main() -> None:
    """Prints and writes the results."""
    parser = results.arguments(__doc__, FULL)
    parser.add_argument("--skip", nargs="+", choices=("bucket", "bursts"), default=(), help="leave out a part")
    parser.add_argument("--moto", type=int, default=0, metavar="PROCESSES", help="serve the bucket by moto's server")
    asked = parser.parse_args()
    effort = QUICK if asked.quick else FULL
    folder = pictures(DATA)
    say(f"remote: 3 and 5 loaders, {effort.turns} turns, at most {effort.budget_seconds:g} s of tuning twice")
    lines = [] if "bucket" in asked.skip else s3(folder, asked.moto, effort)
    lines += [] if "bursts" in asked.skip else collapse(folder, effort)
    publish("remote", "Data behind a network", lines, keep=not asked.quick and not asked.skip)


if __name__ == "__main__":
    main()
