"""Results for a pipeline on a device: data only, so that a report can be made without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from plumb.core.gpu import GpuReading


@dataclass(frozen=True)
class OnDevice:
    """One operator on the device: its seconds per sample in a batch, or a short reason for having none.

    Seconds are means over all samples, including those that don't visit the operator, as in an `Operator`.
    """

    device_seconds: float | None
    reason: str | None


@dataclass(frozen=True)
class DeviceProfile:
    """Results for a pipeline on a device.

    `device` is its name, or None if there is none; `reason` then says why. `operators` has an entry for each operator's
    id, timed in batches of `batch_samples` samples. The two rates are those of copies of `copy_bytes` bytes from the
    host, out of page-locked and of ordinary memory; None if such a copy failed. `gpu` is a reading at the end of the
    measurements, None if the CPU took the device's place.
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
        """Return the profile of a host without a device."""
        return DeviceProfile(None, reason, 0, {}, 0, None, None, None)

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain data for JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> DeviceProfile:
        """Return the profile for data from `to_dict`. Raise ValueError for any other data."""
        try:
            return msgspec.convert(data, DeviceProfile)
        except msgspec.ValidationError as error:
            raise ValueError(f"not the profile of a device: {error}") from None
