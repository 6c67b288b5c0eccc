"""What torch documents for its `DataLoader` holds with plumb's interception in place exactly as without."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from documented import __main__ as documented
from documented.case import CASES

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What every case returned in every way."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "documented"],
        cwd=tmp_path_factory.mktemp("documented"),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", ["unchanged", "changed"])
def test_as_documented(way, name, found):
    plain, under_plumb, torchs = (found[each][name] for each in ("plain", way, "torch"))
    if "skipped" in plain:
        pytest.skip(f"{plain['skipped']} is not installed")
    assert "failed" not in plain, plain["failed"]
    expected = dict(plain)
    if way == "changed":
        expected |= {key: torchs[key] for key in CASES[name].like_torch}
    assert under_plumb == expected
