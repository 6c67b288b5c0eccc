"""Settings of frameworks are named as their users write them."""

from dataclasses import fields, replace
from inspect import signature

import example_plan
import pytest

from plumb.core.config import Config
from plumb.core.plan import Measured
from plumb.report.framework_settings import FRAMEWORKS, framework_setting


@pytest.fixture(scope="module")
def loader():
    plain = Measured(Config(2, 4, True), 900.0, (880.0, 915.0))
    return replace(example_plan.loader_plan(example_plan.graph()), tuned=plain)


def test_a_loader_of_the_trainer_s_has_arguments_of_the_trainer_s(loader):
    assert framework_setting(replace(loader, library="transformers")) == (
        "TrainingArguments(..., dataloader_num_workers=2, dataloader_prefetch_factor=4, "
        "dataloader_persistent_workers=True, dataloader_pin_memory=False)"
    )


def test_what_a_framework_has_no_name_for_is_left_out(loader):
    assert framework_setting(replace(loader, library="timm")) == (
        "timm.data.create_loader(..., num_workers=2, persistent_workers=True, pin_memory=False)"
    )


def test_a_loader_of_the_user_s_own_and_one_that_stays_have_none(loader):
    assert framework_setting(loader) is None
    assert framework_setting(replace(loader, library="unheard_of")) is None
    assert framework_setting(replace(loader, library="timm", tuned=loader.baseline)) is None


def test_the_best_without_plumb_s_runtime_is_named_where_the_choice_needs_it(loader):
    choice = Measured(Config(2, 4, True, fetch_threads=4), 950.0, (940.0, 960.0))
    setting = framework_setting(replace(loader, library="transformers", tuned=choice))
    assert setting.startswith("TrainingArguments(..., dataloader_num_workers=2, dataloader_prefetch_factor=2")


def test_frameworks_know_their_settings():
    transformers = pytest.importorskip("transformers")
    known = {field.name for field in fields(transformers.TrainingArguments)}
    assert known.issuperset(FRAMEWORKS["transformers"].names.values())
    timm_data = pytest.importorskip("timm.data")
    assert set(signature(timm_data.create_loader).parameters).issuperset(FRAMEWORKS["timm"].names.values())
