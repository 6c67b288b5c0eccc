from __future__ import annotations

import pytest
from host_trees import MakeHost

from plumb.host.machine import Machine, container, cpu_model


@pytest.mark.parametrize(
    ("files", "environ", "expected"),
    [
        ({}, {}, None),
        ({"/.dockerenv": ""}, {}, "docker"),
        ({"/run/.containerenv": ""}, {}, "podman"),
        ({"/.dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({}, {"SINGULARITY_CONTAINER": "image.sif"}, "apptainer"),
    ],
)
def test_container(make_host: MakeHost, files: dict[str, str], environ: dict[str, str], expected: str | None) -> None:
    assert container(make_host(files, environ)) == expected


def test_cpu_model(make_host: MakeHost) -> None:
    assert cpu_model(make_host({"/proc/cpuinfo": "processor : 0\nmodel name\t: A CPU @ 2 GHz\n"})) == "A CPU @ 2 GHz"
    assert cpu_model(make_host({"/proc/cpuinfo": "processor : 0\n"}))


def test_this_machine() -> None:
    machine = Machine.detect()
    assert machine.usable_cpus <= machine.logical_cpus
    assert machine.packages["torch"]
