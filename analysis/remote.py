"""Data behind a network: servers of a known capacity, a bucket with a latency, and a server that bursts bring down.

    python -m analysis.remote [--quick] [--skip capacity|bucket|bursts ...] [--moto PROCESSES]

Servers of a known capacity are tuned by hand, too, by a grid of workers and threads. The others stand side by side with
torch's loader as it is by default, and with the worker count that torch suggests. plumb may
store nothing here, so every sample is fetched, as in a first epoch. `--moto`
serves the bucket by moto's server instead of the small one in `analysis/servers/objects.py`, which is quicker.
Prints and writes `analysis/results/remote.md`.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from torch.utils.data import DataLoader, SequentialSampler

from analysis import results
from analysis.measuring import Contender, Reading, by_turns, differing_batches, share, stream_of, torch_contender
from analysis.pipelines.pipeline import DATA
from analysis.pipelines.served import Objects, ObjectsByHand, peak
from analysis.results import Effort, publish, say, table
from analysis.servers.processes import ceiling, moto, running
from analysis.tuned import Tuned, tune_loader
from plumb.core.config import Config

FULL, QUICK = Effort(4, 3.0, 120.0), Effort(1, 0.5, 20.0)
LATENCY_SECONDS, BATCH = 0.1, 64
# An answer of the web server takes so long, and its clients come by fours and eights, or by a hundred.
ANSWER_SECONDS = 0.01
BURSTS = (Config(8, 2, True), Config(4, 2, True, fetch_threads=32))
CONNECTIONS, CEILING_SECONDS = 512, 5.0
COMPARED_BATCHES = 4
# A server that does so many things at once, with queues of these lengths; and the workers and threads by hand.
SLOTS, BACKLOGS, SMALL_BATCH = 16, (5, 128, 1024), 32
GRID = ((1, 4), (1, 8), (2, 4), (1, 16), (2, 8), (2, 12), (1, 32), (2, 16), (4, 8), (2, 32))
READ_ALONE = 20
# The best by hand needs the fewest connections that give so much of it.
NEEDED = 0.95


@dataclass(frozen=True)
class Served:
    """The bucket's port behind the delay, and the most that its servers give: all with the delay, one without."""

    port: int
    ceiling: float
    ceiling_without_delay: float


@contextlib.contextmanager
def bucket(folder: Path, paths: list[str], moto_processes: int) -> Iterator[Served]:
    """Run the servers of the bucket, with the proxy before them, until the context ends."""
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
    """Measure the sides by turns."""
    return by_turns(sides, stream_of(tuned.loader), BATCH, effort.turns, effort.window_seconds)


def differences(tuned: Tuned) -> int:
    """Return how many of the first batches differ between plumb's loader and torch's default, over the same indices."""
    order = SequentialSampler(tuned.loader.dataset)
    batches = [list(order)[start : start + BATCH] for start in range(0, COMPARED_BATCHES * BATCH, BATCH)]
    plain = DataLoader(tuned.loader.dataset, batch_sampler=batches)
    return differing_batches(plain, tuned.make(tuned.config, batches), COMPARED_BATCHES)


def s3(folder: Path, moto_processes: int, effort: Effort) -> list[str]:
    """Compare three sides on the bucket: the share of the server's ceiling, and whether the batches are the same."""
    from analysis.pipelines.remote import BUCKET, BucketDataset

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
    """Compare plumb's choice on the web server with a good point and a collapsed one."""
    from analysis.pipelines.remote import BUCKET, WebDataset

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


def capacity(effort: Effort) -> list[str]:
    """Servers of a known capacity: the best by hand, plumb's choice, and what the server saw of the tuning."""
    lines = []
    for backlog in BACKLOGS:
        with running("analysis.servers.slots", SLOTS, ANSWER_SECONDS, backlog) as port:
            lines.append(capacity_row(port, backlog, effort))
    return [
        "## Servers of a known capacity",
        "",
        f"A server that answers {SLOTS} requests at a time, {ANSWER_SECONDS * 1e3:.0f} ms each: "
        f"{SLOTS / ANSWER_SECONDS:,.0f} answers/s at most. It lets as many connections wait as its backlog says; the "
        "kernel drops the rest, and clients try again after a second. "
        f"urllib, batch {SMALL_BATCH}. By hand: the best of {len(GRID)} numbers of workers and threads; it needs the "
        f"fewest connections that give {NEEDED} of it. The last columns are what the server saw while plumb tuned.",
        "",
        *table(
            [
                "backlog",
                "best by hand, samples/s",
                "connections it needs",
                "plumb's choice",
                "its connections",
                "its samples/s",
                "of the best",
                "last good point",
                "connections while tuning",
                "a read alone, before and after",
            ],
            lines,
        ),
        "",
    ]


def capacity_row(port: int, backlog: int, effort: Effort) -> list[str]:
    """One server's row."""
    before = seconds_alone(port)
    peak(port)
    tuned = tune_loader(
        DataLoader(Objects(port), SMALL_BATCH, shuffle=True), effort.budget_seconds, cache_memory_bytes=0
    )
    asked, after = peak(port), seconds_alone(port)
    say(f"remote: backlog {backlog}: plumb chose {tuned.config} in {tuned.seconds:.0f} s")
    by_hand = [
        torch_contender(DataLoader(ObjectsByHand(port, threads), SMALL_BATCH, shuffle=True), Config(workers, 2, True))
        for workers, threads in GRID
    ]
    sides = [*by_hand, tuned.contender(tuned.config)]
    readings = by_turns(
        sides, stream_of(tuned.loader), SMALL_BATCH, effort.turns, effort.window_seconds, patience_seconds=30.0
    )
    *hand, chosen = (reading.rate.samples_per_second if reading.is_measured else 0.0 for reading in readings)
    best = max(hand)
    needed = min(
        workers * threads for (workers, threads), rate in zip(GRID, hand, strict=True) if rate >= NEEDED * best
    )
    source = tuned.choice.inputs.source
    return [
        str(backlog),
        f"{best:,.0f}",
        str(needed),
        str(tuned.config),
        str(max(tuned.config.num_workers, 1) * tuned.config.fetch_threads),
        f"{chosen:,.0f}",
        f"{chosen / best:.2f}",
        str(source.good_reads) if source else "not climbed",
        str(asked),
        f"{before * 1e3:.1f} ms, {after * 1e3:.1f} ms",
    ]


def seconds_alone(port: int) -> float:
    """Return the seconds that a read alone takes: the median of some."""
    objects, seconds = Objects(port), []
    for index in range(READ_ALONE):
        begun = time.perf_counter()
        objects[index]
        seconds.append(time.perf_counter() - begun)
    return median(seconds)


def loader_of(dataset: Any) -> DataLoader[Any]:
    """Return the user's own loader."""
    return DataLoader(dataset, BATCH, shuffle=True)


def main() -> None:
    """Print the results and write them."""
    parser = results.arguments(__doc__, FULL)
    parser.add_argument(
        "--skip", nargs="+", choices=("capacity", "bucket", "bursts"), default=(), help="leave out a part"
    )
    parser.add_argument("--moto", type=int, default=0, metavar="PROCESSES", help="serve the bucket by moto's server")
    asked = parser.parse_args()
    effort = QUICK if asked.quick else FULL
    say(f"remote: {effort.turns} turns, at most {effort.budget_seconds:g} s for each of five tunings")
    lines = [] if "capacity" in asked.skip else capacity(effort)
    if {*asked.skip} >= {"bucket", "bursts"}:
        publish("remote", "Data behind a network", lines, keep=False)
        return
    from analysis.pipelines.remote import pictures

    folder = pictures(DATA)
    lines += [] if "bucket" in asked.skip else s3(folder, asked.moto, effort)
    lines += [] if "bursts" in asked.skip else collapse(folder, effort)
    publish("remote", "Data behind a network", lines, keep=not asked.quick and not asked.skip)


if __name__ == "__main__":
    main()
