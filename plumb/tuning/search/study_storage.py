"""Storage of a study, so that a later tuning, and other machines, can start from its results.

SQLAlchemy is imported only if there is an address, because most tunings keep their study in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from plumb.core.errors import ExplainedError, one_line
from plumb.core.plan import Trial

_DIGEST_LETTERS = 8


class StudyError(ExplainedError):
    """A study can't be opened."""

    exit_code = 2


@dataclass(frozen=True)
class Record:
    """Address, name and fingerprint of one loader's study; without an address it stays in memory.

    `earlier` are trials of an interrupted tuning. `fingerprint` names the host, the baseline and the search space of
    the measured rates. Its digest is part of the study's name, so that rates of another host, or of another loader of
    the same name, are never mixed in.
    """

    url: str | None
    name: str
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    earlier: tuple[Trial, ...] = ()

    @property
    def study_name(self) -> str:
        """Name of the study: `name`, and the digest of the fingerprint."""
        text = json.dumps(self.fingerprint, sort_keys=True, default=str)
        return f"{self.name} [{hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LETTERS]}]"

    def open(self, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        """Create the study, or open it with its earlier trials. Raise StudyError if the storage can't be used."""
        storage = storage_at(self.url) if self.url else None
        try:
            study = optuna.create_study(
                storage=storage,
                sampler=sampler,
                study_name=self.study_name,
                direction="maximize",
                load_if_exists=True,
            )
            for name, value in self.fingerprint.items():
                study.set_user_attr(name, value)
        except Exception as error:
            raise StudyError(f"--study {_without_password(self.url or '')} failed: {_reason(error)}") from None
        return study


def located(url: str) -> str:
    """Return the address with an absolute path if it is a SQLite file, so that it is valid in any folder.

    Raises:
        StudyError: `url` is no address of a database, or its folder doesn't exist.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):
        raise StudyError(f"--study {url} is not the address of a database; write it like sqlite:///tuning.db") from None
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        return url
    path = Path(parsed.database or "").absolute()
    if not path.parent.is_dir():
        raise StudyError(f"--study {url}: {path.parent} is not a folder")
    return parsed.set(database=str(path)).render_as_string(hide_password=False)


def storage_at(url: str) -> optuna.storages.BaseStorage:
    """Open the storage at `url` and create its tables. Raise StudyError if that fails or a driver is missing."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.storages.get_storage(url)
    except ImportError as error:
        module = error.__cause__.name if isinstance(error.__cause__, ImportError) else error.name
        what = f"the driver {module} is missing; install it" if module else one_line(error)
        raise StudyError(f"--study {_without_password(url)}: {what}") from None
    except Exception as error:
        raise StudyError(f"--study {_without_password(url)} can't be used: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return the message of the database's driver if there is one; SQLAlchemy's own adds advice for programmers."""
    original = getattr(error, "orig", None)
    return one_line(original if isinstance(original, Exception) else error)


def _without_password(url: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(url).render_as_string(hide_password=True)
