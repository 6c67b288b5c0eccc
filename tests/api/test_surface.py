"""What `plumb.` followed by Tab, `help` and `print` show."""

import pydoc
import subprocess
import sys

import pytest
import torch

import plumb
from plumb.core.plan import Plan


@pytest.fixture(scope="module")
def plan():
    return plumb.tune(torch.rand(512, 8), batch_size=64, step=5000.0, budget=1)


def test_tab_shows_the_public_names_alone():
    code = "import plumb, plumb.cli.app, plumb.report.terminal; print(*(n for n in dir(plumb) if n[0] != '_'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(plumb.__all__)
    assert plumb.__version__[0].isdigit()


@pytest.mark.parametrize("name", plumb.__all__)
def test_help_of_every_public_name_is_about_that_name(name):
    text = pydoc.render_doc(getattr(plumb, name), renderer=pydoc.plaintext)
    assert name in text.splitlines()[0]
    # What is returned, raised or held, and for all but plain data an example.
    assert any(word in text for word in ("Args:", "Attributes:"))
    assert ">>>" in text or name == "report"


def test_help_of_trace_is_the_function_s_and_of_plumb_shows_the_usual_calls():
    assert "trace(dataset_or_loader" in pydoc.render_doc("plumb.trace", renderer=pydoc.plaintext)
    told = pydoc.render_doc(plumb, renderer=pydoc.plaintext)
    assert all(call in told for call in ("plumb.tune(", "plan.explain()", "plan.loader("))


def test_a_pipeline_prints_as_the_command_does(plumb, write):
    write("train.py", "import torch\nfor batch in torch.utils.data.DataLoader(torch.rand(64, 10000), 8): pass\n")
    ran = plumb("trace", "train.py")
    assert ran.code == 0, ran.err
    printed = str(sys.modules["plumb"].trace(torch.utils.data.DataLoader(torch.rand(64, 10000), 8)))
    # Times differ, words don't.
    heads = [line for line in printed.splitlines() if line.startswith("operator ")]
    assert len(heads) == 1
    assert heads[0] in [line.rstrip() for line in ran.out.splitlines()]
    assert "Tensor  " in printed.splitlines()[0]
    assert "Hottest: " in printed or "goes through no operators" in printed


def test_predict_takes_a_plan_or_its_file_and_prints_as_the_command_does(plan, plumb, tmp_path):
    import plumb as python

    plan.save(tmp_path / "saved.json")
    forecast = python.predict(plan, cpus=16, memory="64GiB", step_rate=1e6)
    assert str(python.predict(tmp_path / "saved.json", cpus=16, memory="64GiB", step_rate=1e6)) == str(forecast)
    ran = plumb("predict", "saved.json", "--cpus", 16, "--memory", "64GiB", "--step-rate", 1e6)
    assert ran.code == 0, ran.err
    assert [line.rstrip() for line in ran.out.strip().splitlines()] == str(forecast).splitlines()
    (name,) = forecast.loaders
    assert forecast.to_dict()[name]["best"]["samples_per_second"] > 0
    here = python.predict(plan).loaders[name].host
    assert here.is_here
    assert here.best.config == plan.config


def test_report_writes_a_page_and_prints(plan, tmp_path, capsys):
    import plumb as python

    python.report(plan, html=tmp_path / "page.html", perfetto=str(tmp_path / "trace.json"))
    assert capsys.readouterr().out == ""
    assert "<title>plumb: Tensor</title>" in (tmp_path / "page.html").read_text()
    assert (tmp_path / "trace.json").stat().st_size > 0
    python.report(plan)
    assert "Tensor" in capsys.readouterr().out
    assert isinstance(plan.found, Plan)
    plan.save(tmp_path / "saved.json")
    python.report(tmp_path / "saved.json")
    assert "Tensor" in capsys.readouterr().out
