"""Where a study is kept, so that a later tuning, and other machines, start from what is known.

SQLAlchemy is imported only where there is an address: most tunings keep their study in memory and need not wait for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from plumb.errors import one_line
from plumb.plan import Trial

_DIGEST_LETTERS = 8


class StudyError(Exception):
    """A study that can't be opened. The message is one line and says what to do."""


@dataclass(frozen=True)
class Record:
    """The study of one loader: where it is kept (None for memory), what it is called, and what makes it comparable.

    `earlier` are trials of a tuning that was interrupted.

    `fingerprint` says on what host, with what baseline and in what space rates were measured. Its digest is part of the
    study's name: rates of another host, or of another loader that happens to have the name, are never evidence.
    """

    url: str | None
    name: str
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    earlier: tuple[Trial, ...] = ()

    @property
    def study_name(self) -> str:
        """The name, and the digest of the fingerprint."""
        text = json.dumps(self.fingerprint, sort_keys=True, default=str)
        return f"{self.name} [{hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LETTERS]}]"

    def open(self, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        """The study, new or with the trials that it has. Raises StudyError where the storage can't be used."""
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
    """The same address for every folder: a relative path of SQLite's is made absolute. Raises StudyError."""
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
    """The storage at `url`, with its tables. Raises StudyError where there is none, or no driver for it."""
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
    """What the database's own driver says, where it was asked: SQLAlchemy adds advice for programmers."""
    original = getattr(error, "orig", None)
    return one_line(original if isinstance(original, Exception) else error)


def _without_password(url: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(url).render_as_string(hide_password=True)
