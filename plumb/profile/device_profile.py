"""What was found of a pipeline on a device: data only, so that a report can be made without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from plumb.profile.gpu import GpuReading


@dataclass(frozen=True)
class OnDevice:
    """One operator on the device: its seconds per sample in a batch, or in a short phrase why there are none.

    Seconds are means over all samples, those included that don't visit it, as an `Operator` has them.
    """

    device_seconds: float | None
    reason: str | None


@dataclass(frozen=True)
class DeviceProfile:
    """What a device would do for a pipeline. `device` is its name; None where there is none, and `reason` says why.

    `operators` has an entry for each operator's id, timed in batches of `batch_samples` samples. The two rates are
    those of copies of `copy_bytes` bytes from the host, out of page-locked and out of ordinary memory; None where that
    can't be done. `gpu` is a reading at the end of it, None for a CPU that stands in for the device.
    """

    device: str | None
    reason: str | None
    batch_samples: int
    operators: Mapping[str, OnDevice]
    copy_bytes: int
    pinned_bytes_per_second: float | None
    pageable_bytes_per_second: float | None
    gpu: GpuReading | None

    @staticmethod
    def none(reason: str) -> DeviceProfile:
        """The profile of a host without a device."""
        return DeviceProfile(None, reason, 0, {}, 0, None, None, None)

    def to_dict(self) -> dict[str, Any]:
        """The profile as plain data, ready for JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> DeviceProfile:
        """The profile that `to_dict` gave `data` for. Raises ValueError where it did not."""
        try:
            return msgspec.convert(data, DeviceProfile)
        except msgspec.ValidationError as error:
            raise ValueError(f"not the profile of a device: {error}") from None
