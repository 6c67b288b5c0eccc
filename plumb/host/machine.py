"""Description of the host for readers of a plan on another host."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from plumb.host.affinity import usable_cpus
from plumb.host.host_files import HostFiles
from plumb.host.local_ranks import ranks_on_host

_PACKAGES = ("plumb-tune", "torch", "torchvision", "numpy", "optuna")


@dataclass(frozen=True)
class Machine:
    """A host and its Python. `container` is `docker`, `podman`, `kubernetes`, `apptainer` or None.

    `logical_cpus` is `os.cpu_count()`, `usable_cpus` the number that this process may run on; both ignore quotas.
    """

    cpu_model: str
    logical_cpus: int
    usable_cpus: int
    ranks: int
    container: str | None
    system: str
    python: str
    packages: dict[str, str]

    @classmethod
    def detect(cls) -> Machine:
        """Detect the host of this process; packages are looked up, not imported."""
        host = HostFiles()
        return cls(
            cpu_model=cpu_model(host),
            logical_cpus=os.cpu_count() or 1,
            usable_cpus=usable_cpus(host),
            ranks=ranks_on_host(host).count,
            container=container(host),
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            packages=_versions(),
        )


def cpu_model(host: HostFiles) -> str:
    """Return the processor's name, or its architecture if no name can be read."""
    for line in (host.text("/proc/cpuinfo") or "").splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def container(host: HostFiles) -> str | None:
    """Return the software that runs this process's container, or None if there is no sign of a container."""
    signs = {
        "kubernetes": "KUBERNETES_SERVICE_HOST" in host.environ,
        "apptainer": "APPTAINER_CONTAINER" in host.environ or "SINGULARITY_CONTAINER" in host.environ,
        "podman": host.exists("/run/.containerenv"),
        "docker": host.exists("/.dockerenv"),
    }
    return next((name for name, found in signs.items() if found), None)


def _versions() -> dict[str, str]:
    from importlib import metadata

    installed = {package: list(metadata.distributions(name=package)) for package in _PACKAGES}
    return {package: found[0].version for package, found in installed.items() if found}
