"""Settings that a script reads before it makes its loaders: options parsed by argparse, and configuration files."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from typing import Any

from plumb.core.construction import ParsedOption
from plumb.instrument.call_site import is_library

_SUFFIXES = (".yaml", ".yml", ".json", ".toml", ".ini", ".cfg", ".conf")
_FILES_AT_MOST = 50
_options: dict[str, ParsedOption] = {}
_files: dict[str, None] = {}


def listen() -> None:
    """Record what this process reads from now on."""
    parse = argparse.ArgumentParser.parse_known_args

    @functools.wraps(parse)
    def noting(self: argparse.ArgumentParser, *arguments: Any, **keywords: Any) -> Any:
        parsed = parse(self, *arguments, **keywords)
        _note(self, parsed[0])
        return parsed

    argparse.ArgumentParser.parse_known_args = noting  # type: ignore[method-assign]
    sys.addaudithook(_hear)


def parsed_options() -> tuple[ParsedOption, ...]:
    """Return the options that argparse has parsed, if their values are numbers, flags or None."""
    return tuple(_options.values())


def config_files() -> tuple[str, ...]:
    """Return the absolute paths of the configuration files that the user's code has opened for reading."""
    return tuple(_files)


def _note(parser: argparse.ArgumentParser, parsed: Any) -> None:
    for action in parser._actions:
        # Only what can be a loader's argument: other values, such as passwords, are nothing for a plan.
        value, default = getattr(parsed, action.dest, action), action.default
        if _is_plain(value) and action.dest != "help":
            shown = repr(default) if _is_plain(default) else ""
            _options[action.dest] = ParsedOption(action.dest, tuple(action.option_strings), repr(value), shown)


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (int, bool, float)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or len(_files) >= _FILES_AT_MOST or not arguments:
        return
    path, mode = arguments[0], arguments[1] if len(arguments) > 1 else None
    if isinstance(path, str) and path.endswith(_SUFFIXES) and (mode is None or "r" in str(mode)):
        path = os.path.abspath(path)
        if not is_library(path):
            _files.setdefault(path)
