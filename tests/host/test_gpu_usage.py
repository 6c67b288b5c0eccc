"""What NVML says of a GPU at one moment: without a driver, and with a stand-in for faults that can't be caused."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from plumb.core.gpu import Gpu
from plumb.host.gpu_usage import FIGURES, read_gpu
from plumb.tracing.device.clock import current_gpu

GIB = 2**30


class NVMLError(Exception):
    pass


class FakeNvml(ModuleType):
    """One whole GPU; the questions in `unanswered` are refused, those in `unknown` don't exist."""

    NVMLError = NVMLError

    def __init__(self, unanswered: set[str] = frozenset(), unknown: set[str] = frozenset()) -> None:
        super().__init__("pynvml")
        self.unanswered, self.unknown = unanswered, unknown
        self.answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "board",
            "nvmlDeviceGetHandleByUUID": lambda uuid: "part" if uuid.startswith("MIG") else "board",
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": "board",
            "nvmlDeviceGetName": "NVIDIA A100",
            "nvmlDeviceGetUUID": lambda handle: "MIG-2" if handle == "part" else "GPU-1",
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(
                total=(10 if handle == "part" else 40) * GIB, free=9 * GIB, used=GIB
            ),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37, memory=12),
            "nvmlDeviceGetPcieThroughput": lambda handle, counter: {0: 100, 1: 2000}[counter],
            "nvmlDeviceGetMigMode": (0, 0),
            "nvmlDeviceGetMaxMigDeviceCount": 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": lambda handle, number: "part",
            "nvmlDeviceGetCurrPcieLinkGeneration": 4,
            "nvmlDeviceGetMaxPcieLinkGeneration": 4,
            "nvmlDeviceGetCurrPcieLinkWidth": 16,
            "nvmlDeviceGetMaxPcieLinkWidth": 16,
        }

    def __getattr__(self, question: str) -> Any:
        if not question.startswith("nvml") or question in self.unknown:
            raise AttributeError(question)

        def ask(*arguments: Any) -> Any:
            if question in self.unanswered:
                raise NVMLError("Not Supported")
            answer = self.answers[question]
            return answer(*arguments) if callable(answer) else answer

        return ask


def install(monkeypatch: pytest.MonkeyPatch, fake: FakeNvml | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake)


def test_everything_that_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml())
    reading = read_gpu("1", {})
    assert (reading.name, reading.uuid, reading.utilization_share) == ("NVIDIA A100", "GPU-1", 0.37)
    assert (reading.memory_used_bytes, reading.memory_total_bytes) == (GIB, 40 * GIB)
    assert (reading.pcie_received_bytes_per_second, reading.pcie_sent_bytes_per_second) == (2000 * 1024, 100 * 1024)
    assert (reading.partitions, reading.reasons) == ((), {})


def test_a_partition_of_a_board(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml(unanswered={"nvmlDeviceGetUtilizationRates"})
    fake.answers |= {"nvmlDeviceGetMigMode": (1, 1), "nvmlDeviceGetMaxMigDeviceCount": 1}
    install(monkeypatch, fake)
    reading = read_gpu("MIG-2", {})
    assert (reading.uuid, reading.memory_total_bytes) == ("MIG-2", 10 * GIB)
    assert reading.partitions == (Gpu("NVIDIA A100", "MIG-2", True, 10 * GIB, 9 * GIB, 4, 4, 16, 16),)
    assert reading.reasons == {"utilization_share": "Not Supported"}


QUESTIONS = sorted(FakeNvml().answers)


@given(unanswered=st.sets(st.sampled_from(QUESTIONS)), unknown=st.sets(st.sampled_from(QUESTIONS)), mig=st.booleans())
def test_whatever_fails_each_figure_has_a_value_or_a_reason(unanswered: set[str], unknown: set[str], mig: bool) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake = FakeNvml(unanswered, unknown - {"nvmlInit"})
        fake.answers["nvmlDeviceGetMigMode"] = (int(mig), 0)
        install(monkeypatch, fake)
        reading = read_gpu(None, {})
    for name in FIGURES:
        assert (getattr(reading, name) is None) == (name in reading.reasons)
    assert all(reading.reasons.values())


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    assert read_gpu(None, {}).reasons == dict.fromkeys(FIGURES, "nvidia-ml-py isn't installed")


def test_another_gpu_than_those_that_nvml_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml())
    assert read_gpu("GPU-7", {}).reasons["name"] == "NVML doesn't list the GPU GPU-7"
    assert "leaves none" in read_gpu(None, {"CUDA_VISIBLE_DEVICES": "7"}).reasons["name"]


def test_the_driver_of_this_host_or_its_absence() -> None:
    reading = read_gpu(None, {})
    assert all((getattr(reading, name) is None) == (name in reading.reasons) for name in FIGURES)


@pytest.mark.parametrize("driver", [True, False])
def test_a_torch_for_gpus_that_sees_none_says_why(monkeypatch: pytest.MonkeyPatch, driver: bool) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    install(monkeypatch, FakeNvml() if driver else None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    expected = "torch can't use the NVIDIA A100 that NVML lists" if driver else "nvidia-ml-py isn't installed"
    assert current_gpu() == expected
