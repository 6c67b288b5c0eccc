"""Libraries with loaders of their own, each in its own environment, with a few settings to choose from."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from analysis.apart.contents import Contents
from analysis.apart.job import Job
from analysis.footprint import Footprint
from analysis.measuring import Apart
from analysis.peers.environments import CannotRunError, Environment
from analysis.peers.jobs import answer_of, images_of, job_of
from analysis.pipelines.pipeline import Pipeline
from plumb.host import Limits
from plumb.tuning.measure.throughput import Chunk, rate_of

_MEBI = 2.0**20


@dataclass(frozen=True)
class Library:
    """A library, the script that uses it, what it can be asked to do, and the settings that its documents name."""

    name: str
    script: str
    environment: Environment
    settings: Callable[[Limits], list[dict[str, Any]]]
    unfit: Callable[[Pipeline], str]


def _any_map(pipeline: Pipeline) -> str:
    return "it is given samples by index, and an iterable dataset has none" if pipeline.is_iterable else ""


def _even_rows(pipeline: Pipeline) -> str:
    if pipeline.collate_fn is not None:
        return "its batches are tables of rows of one shape, and these are none"
    return _any_map(pipeline)


def _images(pipeline: Pipeline) -> str:
    if images_of(pipeline):
        return ""
    return "only the image pipeline was written in its operators"


def _spdl(limits: Limits) -> list[dict[str, Any]]:
    cores = max(1, int(limits.cpus))
    threads = [{"concurrency": count, "processes": False} for count in (cores, 2 * cores, 8 * cores, 64)]
    return [*threads, {"concurrency": cores, "processes": True}]


def _grain(limits: Limits) -> list[dict[str, Any]]:
    budget = int(limits.memory_bytes / _MEBI / 4)
    return [{"processes": True, "memory_mb": budget}, {"processes": False, "memory_mb": budget}]


def _ray(limits: Limits) -> list[dict[str, Any]]:
    store = int(min(limits.memory_bytes / 4, 2048 * _MEBI))
    return [{"prefetch_batches": count, "store_bytes": store} for count in (1, 4)]


def _dali(limits: Limits) -> list[dict[str, Any]]:
    cores = max(1, int(limits.cpus))
    return [{"threads": count, "prefetch": depth} for count in (cores, 2 * cores) for depth in (2, 4)]


def _ffcv(limits: Limits) -> list[dict[str, Any]]:
    cores = max(1, int(limits.cpus))
    return [{"threads": cores, "batches_ahead": count} for count in (3, 6)]


LIBRARIES = (
    Library("SPDL", "spdl", Environment("spdl", ("spdl",), True), _spdl, _any_map),
    Library("Grain", "grain", Environment("grain", ("grain",), True), _grain, _any_map),
    Library("Ray Data", "ray_data", Environment("ray", ("ray[data]",), True), _ray, _even_rows),
    Library("tf.data", "tf_data", Environment("tensorflow", ("tensorflow-cpu",), False), lambda _: [{}], _images),
    Library("DALI", "dali", Environment("dali", ("nvidia-dali-cuda120", "numpy"), False), _dali, _images),
    Library(
        "FFCV",
        "ffcv",
        Environment(
            "ffcv",
            ("ffcv", "pytorch-pfn-extras", "terminaltables", "assertpy", "fastargs", "numba", "opencv-python-headless"),
            True,
            has_dependencies=False,
            lacking="a compiler, pkg-config, and the headers of OpenCV and libturbojpeg",
        ),
        _ffcv,
        _images,
    ),
)


@dataclass(frozen=True)
class Running:
    """A library with settings that were chosen for one pipeline."""

    library: Library
    job: Job
    seconds: float

    @property
    def contender(self) -> Apart:
        """It as a contender: each window is a process of its own."""
        return Apart(self.library.name, self._window)

    def looked_at(self, batches: list[list[int]], seconds: float) -> tuple[Contents, Footprint, dict[str, str]]:
        """Return the contents of `batches`, the footprint meanwhile, and the versions. Raise CannotRunError."""
        job = replace(self.job, batches=batches, checked=len(batches), seconds=seconds)
        found, footprint = answer_of(self.library.environment, self.library.script, job, watch=True)
        return Contents(**found["contents"]), footprint, found["versions"]

    def _window(self, seconds: float) -> list[Chunk]:
        job = replace(self.job, seconds=seconds)
        found, _ = answer_of(self.library.environment, self.library.script, job, watch=False)
        return [Chunk(*pair) for pair in found["chunks"]]


def tuned_by_hand(library: Library, pipeline: Pipeline, seconds: float, settings_at_most: int) -> Running:
    """Return the library with the best of its settings, each tried for `seconds`. Raise CannotRunError if none runs."""
    unfit = library.unfit(pipeline)
    if unfit:
        raise CannotRunError(unfit)
    library.environment.require()
    begun, limits = time.perf_counter(), Limits.detect()
    job = job_of(pipeline, limits)
    tried = library.settings(limits)[:settings_at_most]
    candidates = [Running(library, replace(job, settings=settings), 0.0) for settings in tried]
    if len(candidates) == 1:
        return candidates[0]
    rates, reasons = {}, []
    for number, candidate in enumerate(candidates):
        try:
            rates[number] = rate_of(candidate.contender.window(seconds)).samples_per_second
        except CannotRunError as reason:  # noqa: PERF203
            reasons.append(str(reason))
    if not rates:
        raise CannotRunError(reasons[0])
    winner = candidates[max(rates, key=rates.__getitem__)]
    return replace(winner, seconds=time.perf_counter() - begun)
