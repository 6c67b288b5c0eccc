"""GPUs, on a stand-in for NVML: drivers that are missing, old, partial or partitioned."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from plumb.core.gpu import Gpu
from plumb.host.gpus import gpus

GIB = 2**30


class NVMLError(Exception):
    pass


class FakeNvml(ModuleType):
    """Two whole GPUs, or whatever the test sets; a question whose answer is None is 'not supported'."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.running = 0
        self.answers: dict[str, Any] = {
            "nvmlDeviceGetCount": 2,
            "nvmlDeviceGetHandleByIndex": lambda number: f"gpu{number}",
            "nvmlDeviceGetName": "NVIDIA A100",
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=40 * GIB, free=39 * GIB),
            "nvmlDeviceGetMigMode": (0, 0),
            "nvmlDeviceGetCurrPcieLinkGeneration": 1,
            "nvmlDeviceGetMaxPcieLinkGeneration": 4,
            "nvmlDeviceGetCurrPcieLinkWidth": 8,
            "nvmlDeviceGetMaxPcieLinkWidth": 16,
        }

    def nvmlInit(self) -> None:  # noqa: N802
        self.running += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.running -= 1

    def __getattr__(self, question: str) -> Any:
        if not question.startswith("nvml") or question not in self.answers:
            raise AttributeError(question)

        def ask(*arguments: Any) -> Any:
            answer = self.answers[question]
            answer = answer(*arguments) if callable(answer) else answer
            if answer is None:
                raise NVMLError("Not Supported")
            return answer

        return ask


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def names(environ: dict[str, str]) -> list[str | None]:
    return [gpu.uuid for gpu in gpus(environ)[0]]


def test_everything_that_the_driver_says(nvml: FakeNvml) -> None:
    found, source = gpus({})
    assert found[0] == Gpu(
        name="NVIDIA A100",
        uuid="GPU-gpu0",
        mig=False,
        memory_bytes=40 * GIB,
        memory_free_bytes=39 * GIB,
        pcie_generation=1,
        pcie_generation_most=4,
        pcie_width=8,
        pcie_width_most=16,
    )
    assert (len(found), source, nvml.running) == (2, "NVML", 0)


def test_without_a_driver_there_is_a_reason(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise NVMLError("NVML Shared Library Not Found")

    monkeypatch.setattr(nvml, "nvmlInit", fail)
    assert gpus({}) == ((), "NVML Shared Library Not Found")


def test_without_the_package_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus({}) == ((), "nvidia-ml-py isn't installed")


@pytest.mark.parametrize("removed", [True, False])
def test_questions_that_the_driver_does_not_know_or_support(nvml: FakeNvml, removed: bool) -> None:
    for question in list(nvml.answers)[2:]:
        if removed:
            del nvml.answers[question]
        else:
            nvml.answers[question] = None
    found, source = gpus({})
    assert found == (Gpu("unnamed GPU", None, False, None, None, None, None, None, None),) * 2
    assert source == "NVML"


def test_a_lost_gpu_does_not_hide_the_others(nvml: FakeNvml) -> None:
    nvml.answers["nvmlDeviceGetHandleByIndex"] = lambda number: None if number == 0 else f"gpu{number}"
    assert names({}) == ["GPU-gpu1"]


def test_no_gpu_behind_a_working_driver(nvml: FakeNvml) -> None:
    nvml.answers["nvmlDeviceGetCount"] = 0
    assert gpus({}) == ((), "NVML lists none")


def test_partitions_stand_for_their_gpu(nvml: FakeNvml) -> None:
    parts = {("gpu0", 0): "part0", ("gpu0", 3): "part3"}
    nvml.answers |= {
        "nvmlDeviceGetMigMode": lambda handle: (1, 1) if handle == "gpu0" else None,
        "nvmlDeviceGetMaxMigDeviceCount": 7,
        "nvmlDeviceGetMigDeviceHandleByIndex": lambda handle, number: parts.get((handle, number)),
        "nvmlDeviceGetUUID": lambda handle: f"{'MIG' if handle.startswith('part') else 'GPU'}-{handle}",
    }
    assert [(gpu.uuid, gpu.mig) for gpu in gpus({})[0]] == [
        ("MIG-part0", True),
        ("MIG-part3", True),
        ("GPU-gpu1", False),
    ]
    assert names({"CUDA_VISIBLE_DEVICES": "MIG-part3"}) == ["MIG-part3"]


@pytest.mark.parametrize(
    ("variable", "uuids"),
    [
        ("0,1", ["GPU-gpu0", "GPU-gpu1"]),
        ("1", ["GPU-gpu1"]),
        (" 1 , 0 ", ["GPU-gpu1", "GPU-gpu0"]),
        ("GPU-gpu1", ["GPU-gpu1"]),
        ("0,7,1", ["GPU-gpu0"]),
        ("-1", []),
        ("", []),
        ("0,", ["GPU-gpu0"]),
    ],
)
def test_cuda_visible_devices(nvml: FakeNvml, variable: str, uuids: list[str]) -> None:
    assert names({"CUDA_VISIBLE_DEVICES": variable}) == uuids


def test_a_variable_that_hides_all_gpus_is_the_reason(nvml: FakeNvml) -> None:
    assert gpus({"CUDA_VISIBLE_DEVICES": ""}) == ((), "CUDA_VISIBLE_DEVICES='' leaves none")
