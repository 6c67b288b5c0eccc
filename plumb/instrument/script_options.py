"""Options that code reads from the environment, from the command line, and from libraries' option objects.

Only those that the code names count.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Set
from typing import Any

from plumb.instrument.simple_values import in_words, text_digest

_READS_ENVIRONMENT = frozenset(("environ", "getenv", "environb"))
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# These differ between the processes of one job.
_OF_LAUNCHERS = frozenset(("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"))
# Attribute with a library's options, by the package of the object's class.
_FIELDS = {"omegaconf": "_content", "absl": "__flags", "ml_collections": "_fields"}
_VALUES = ("_val", "_value")


def options_of_process(names: Set[str]) -> dict[str, str]:
    """Return the environment variables and command line that code with these `names` reads, in words by their names."""
    options = {}
    if not _READS_ENVIRONMENT.isdisjoint(names):
        for name in names - _OF_LAUNCHERS:
            if _VARIABLE.fullmatch(name) and (name.isupper() or name in os.environ):
                value = os.environ.get(name)
                options[f"environment variable {name}"] = "not set" if value is None else str(in_words(value))
    if "argv" in names:
        options["sys.argv"] = text_digest(repr(sys.argv[1:]))
    return options


def options_of_library(value: Any) -> dict[str, Any] | None:
    """Return the options in a library's option object; None for any other object."""
    field = _FIELDS.get(type(value).__module__.partition(".")[0])
    if field is None:
        return None
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    held = attributes.get(field)
    if isinstance(held, dict):
        return {str(name): _plain(item) for name, item in held.items()}
    if isinstance(held, list):
        return {f"[{place}]": _plain(item) for place, item in enumerate(held)}
    return None


def _plain(node: Any) -> Any:
    """Return the value in one of a library's options."""
    attributes = getattr(node, "__dict__", None)
    if type(attributes) is dict:
        for name in _VALUES:
            if name in attributes:
                return attributes[name]
    return node
