"""Share of what its CPUs allow that the images example reaches, with torch's loader and with each of plumb's rewrites.

    python -m analysis.limit [--quick]

The physical limit is cores over the CPU seconds that one sample takes in one process that does nothing else, measured
again in every turn. Prints and writes `analysis/results/limit.md`.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from analysis import knobs, results
from analysis.images import train_loader
from analysis.measuring import (
    Contender,
    Reading,
    best,
    by_turns,
    pure_cpu_seconds,
    share,
    share_by_turns,
    stream_of,
    torch_contender,
)
from analysis.results import Effort, publish, say, table
from analysis.tuned import Tuned, tune_loader
from plumb.core.config import Config
from plumb.host import Limits

FULL, QUICK = Effort(7, 1.2, 60.0), Effort(1, 0.3, 6.0)
OURS = (Config(2, 2, True), Config(2, 4, True), Config(3, 4, True))
PASSTHROUGH = Config(2, 4, True)


class NotRun:
    """A loader's batches before their deferred operators, as a training on a GPU would take them from it."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)._batches


def kinds(tuned: Tuned) -> dict[str, list[Contender]]:
    """Return what to compare: torch's loader, plumb's without any rewrite, and plumb's with each that was offered."""
    loader = tuned.loader
    compared = {
        "torch's loader": [torch_contender(loader, config) for config in knobs.TORCHS],
        "plumb's loader, nothing changed": [tuned.contender(PASSTHROUGH)],
        "reused memory": [tuned.contender(config) for config in _changed(OURS, allocator_reuse=[True])],
    }
    deferrals = [names for names in tuned.choice.search_space.deferrals if names]
    if deferrals:
        deferred = list(_changed(OURS, deferred=deferrals, allocator_reuse=[False, True]))
        compared["deferred, and run by the main process"] = [tuned.contender(config) for config in deferred]
        compared["deferred, and not run"] = [_not_run(tuned, config) for config in deferred]
    caches = [cache for cache in tuned.choice.search_space.caches if cache]
    if caches:
        ways = _changed((Config(0), *OURS), cache=caches, deferred=[(), *deferrals], allocator_reuse=[False, True])
        cached = [config for config in ways if knobs.fits(tuned.space, config)]
        compared["cached"] = [tuned.contender(config) for config in cached]
    return compared


def _changed(configs: Iterable[Config], **changes: list[Any]) -> Iterator[Config]:
    for config, *values in itertools.product(configs, *changes.values()):
        yield dataclasses.replace(config, **dict(zip(changes, values, strict=True)))


def _not_run(tuned: Tuned, config: Config) -> Contender:
    def make(indices: Iterable[Any] | None) -> NotRun:
        return NotRun(tuned.make(config, indices))

    return Contender(f"{config}, not run", config, make)


def rows(compared: dict[str, list[Contender]], readings: list[Reading], limits: list[float]) -> list[list[str]]:
    """Return the best of each kind: its rate, its share of the limit, and its rate over that of torch's best."""
    by_contender = {reading.contender: reading for reading in readings}
    of_kind = {kind: [by_contender[contender] for contender in contenders] for kind, contenders in compared.items()}
    torchs = best(of_kind["torch's loader"])
    lines = []
    for kind, its_readings in of_kind.items():
        if not any(reading.is_measured for reading in its_readings):
            lines.append([kind, its_readings[0].contender.name, its_readings[0].error, "", ""])
            continue
        reading = best(its_readings)
        of_limit, of_torchs = share_by_turns(reading.rates, limits), share(reading, torchs)
        lines.append(
            [
                kind,
                str(reading.contender.config),
                f"{reading.rate.samples_per_second:,.0f}",
                *(
                    f"{rate.samples_per_second:.3f} [{rate.interval[0]:.3f}, {rate.interval[1]:.3f}]"
                    for rate in (of_limit, of_torchs)
                ),
            ]
        )
    return lines


def passthrough(readings: list[Reading]) -> str:
    """Return the cost of an untouched configuration, in words."""
    name = torch_contender(train_loader(), PASSTHROUGH).name
    torchs = next(reading for reading in readings if reading.contender.name == name)
    ours = next(reading for reading in readings if reading.contender.name == f"plumb, {PASSTHROUGH}")
    ratio = share(ours, torchs)
    low, high = ratio.interval
    return (
        f"With {PASSTHROUGH} and nothing changed, plumb's loader reaches {ratio.samples_per_second:.3f} "
        f"[{low:.3f}, {high:.3f}] of torch's."
    )


def main() -> None:
    """Print the results and write them."""
    asked = results.arguments(__doc__, FULL).parse_args()
    effort = QUICK if asked.quick else FULL
    loader = train_loader()
    tuned = tune_loader(loader, effort.budget_seconds)
    compared = kinds(tuned)
    contenders = [contender for its_contenders in compared.values() for contender in its_contenders]
    say(f"limit: {len(contenders)} contenders, {effort.turns} turns")
    tuned.fill(contender.config for contender in contenders)
    cores = Limits.detect().cpus
    limits: list[float] = []
    readings = by_turns(
        contenders,
        stream_of(loader),
        loader.batch_size,
        effort.turns,
        effort.window_seconds,
        lambda: limits.append(cores / pure_cpu_seconds(loader, effort.window_seconds)),
    )
    middle = sorted(limits)[len(limits) // 2]
    lines = [
        f"The physical limit is {middle:,.0f} samples/s: {cores:g} CPUs over {cores / middle * 1e3:.2f} ms of pure "
        f"work for a sample (from {min(limits):,.0f} to {max(limits):,.0f} over {effort.turns} turns). plumb chose "
        f"{tuned.config}.",
        "",
        *table(
            ["loader", "best configuration", "samples/s", "of the limit", "of torch's best"],
            rows(compared, readings, limits),
        ),
        "",
        passthrough(readings),
        "",
        "What plumb did not offer, and why:",
        "",
        *(f"- {reason}" for reason in tuned.rewrites.reasons),
    ]
    publish("limit", "The images example and the physical limit", lines, keep=not asked.quick)


if __name__ == "__main__":
    main()
