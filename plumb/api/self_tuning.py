"""Loaders that tune themselves: on the plan for dataset and host if there is one, else tuned once."""

from __future__ import annotations

import contextlib
import multiprocessing
import shlex
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from plumb.api import plan_cache
from plumb.api.plan_cache import CacheKey, UnsafePlanError
from plumb.core.errors import TuningError, one_line
from plumb.core.plan import LoaderResult, PlanError
from plumb.instrument import failure_report
from plumb.instrument.call_site import Site
from plumb.instrument.restore import single_pass_part
from plumb.tuning.dataset_settings import Settings
from plumb.tuning.options import Options

# Other loaders run unchanged while one is tuned, because tuning them would disturb it.
_busy = threading.Lock()
# Datasets that were tuned in this process, without their changing numbers, because once is enough; and of those that
# differ in flags and texts only a few.
_tuned: dict[str, set[str]] = {}
_TUNED_AT_MOST = 3
# Answers by dataset, so that a loader that is remade in each epoch gets the answer of the first.
_answers: dict[tuple[int, str], tuple[weakref.ref[Any], LoaderResult]] = {}
_said: set[str] = set()


def find_or_tune(loader: DataLoader[Any], site: Site, settings: Settings, may_tune: bool) -> LoaderResult | None:
    """Return the plan for a loader that is about to be iterated; None if it must run as the script has it.

    Never raises for plumb's own reasons, which are printed on standard error in one line.

    Args:
        loader: The loader.
        site: Place that iterates it.
        settings: The user's settings for the dataset.
        may_tune: Whether to tune the loader if there is no plan.
    """
    if multiprocessing.current_process().daemon or not _busy.acquire(blocking=False):
        return None
    try:
        options = settings.options()
        key = plan_cache.cache_key(loader, options)
        answer_key = id(loader.dataset), key.without_numbers
        known = _answers.get(answer_key)
        if known is not None and known[0]() is loader.dataset:
            return known[1]
        answer = _find_or_tune(loader, site, settings, options, key, may_tune)
        if answer is not None:
            # The id of a dataset without weak references might be reused for another dataset.
            with contextlib.suppress(TypeError):
                _answers[answer_key] = weakref.ref(loader.dataset), answer
        return answer
    except Exception as error:
        failure_report.say(error, f"{site.name} ({site}) runs as the script has it")
        return None
    finally:
        _busy.release()


def say(text: str) -> None:
    """Print a line for the user on standard error, only once."""
    if text not in _said:
        _said.add(text)
        print(f"plumb: {text}", file=sys.stderr, flush=True)


def _find_or_tune(
    loader: DataLoader[Any], site: Site, settings: Settings, options: Options, key: CacheKey, may_tune: bool
) -> LoaderResult | None:
    own = plan_cache.cached_plan_path(key)
    asked = Path(settings.plan_file).absolute() if settings.plan_file else None
    for place in (asked, own):
        try:
            found = plan_cache.find(place, key, options) if place else None
        except UnsafePlanError as error:
            say(f"{error}; the loader runs as the script has it")
            return None
        except PlanError as error:
            say(f"{error}; it is not used")
            continue
        if found is not None:
            return found
    tuned = _tuned.setdefault(key.without_content, set())
    if not may_tune or key.without_numbers in tuned or len(tuned) >= _TUNED_AT_MOST:
        return None
    tuned.add(key.without_numbers)
    once = single_pass_part(loader)
    if once:
        say(f"{site.name} ({site}) was not tuned: {once} reads on from where it is, so its samples would be lost")
        return None
    # An existing file that was not used belongs to something else, so it is left alone.
    place = asked if asked is not None and not asked.exists() else own
    say(
        f"{site.name} ({site}) has no plan for this host yet: tuning it once, for about {options.budget_seconds:g} s; "
        f"{shlex.join(['plumb', 'report', str(place)])} shows the result"
    )
    return _tune_now(loader, site, options, place, key)


def _tune_now(loader: DataLoader[Any], site: Site, options: Options, place: Path, key: CacheKey) -> LoaderResult | None:
    from plumb.api.in_process import tune_here

    try:
        found = tune_here(loader, site, options)
    except TuningError as error:
        say(f"{site.name} ({site}) was not tuned: {error}")
        return None
    except Exception as error:
        # An error in the user's data is raised again when the user's own code reads the loader.
        say(f"{site.name} ({site}) was not tuned: {one_line(error)}")
        return None
    try:
        plan_cache.keep(found, place, key)
    except PlanError as error:
        say(f"{error}; the plan holds for this run only")
    return found.loaders[0]
