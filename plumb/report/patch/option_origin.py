"""Origin of a value in a command line option or in a configuration file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import libcst as cst

from plumb.report.patch.call_chain import Lookup
from plumb.report.patch.source_file import UNKNOWN, Function, SourceFile, last_name, literal

# Spellings of a value in YAML, JSON, TOML and INI files.
_SPELLED = {"True": "true|True|yes|on", "False": "false|False|no|off", "None": "null|None|~"}


@dataclass(frozen=True)
class Origin:
    """Origin of a value in words, with the value if the source shows it, and how to change it.

    `instead` returns a phrase for a new value, or for `name=value` if `takes_keywords`. `can_vary`: the value may
    change without an edit at that place. `where` is the place of the change, if `text` doesn't contain it.
    """

    text: str
    value: Any
    instead: Callable[[Any], str]
    can_vary: bool = False
    takes_keywords: bool = False
    where: str = ""

    def is_same_as(self, other: Origin) -> bool:
        """Return whether a change at one origin is a change at the other."""
        return (self.text, self.where) == (other.text, other.where)


def parsed_option(source: SourceFile, name: str, at: Lookup) -> Origin | None:
    """Return the option that argparse parsed as `name`; None if there is none, or if the value was set later."""
    option = next((each for each in at.construction.options if each.name == name), None)
    if option is None or (at.value is not UNKNOWN and option.value != repr(at.value)):
        return None
    flag = _shown(option.flags) if option.flags else name
    for each in (source, *at.others(source, flag)):
        defined = _definition(each, name)
        if defined is not None:
            return defined
    default = f" (default {option.default})" if option.default else ""
    value = literal(source, cst.parse_expression(option.value))
    return Origin(f"{flag}{default}", value, lambda v: f"pass {flag} {v}", can_vary=True)


def static_option(source: SourceFile, name: str, at: Lookup) -> Origin | None:
    """Return the option that the source defines for argparse as `name`, if it isn't known what was parsed."""
    return _definition(source, name) if not any(o.name == name for o in at.construction.options) else None


def click_option(source: SourceFile, function: Function, name: str) -> Origin | None:
    """Return the origin of a parameter that a decorator of `function` makes from a command line option."""
    for decorator in function.decorators if isinstance(function, cst.FunctionDef) else ():
        call = decorator.decorator
        if isinstance(call, cst.Call) and last_name(call.func) == "option":
            flags = [flag for flag in _flags(source, call) if flag.startswith("-")]
            if flags and _destination(source, flags, {}) == name:
                keywords = {a.keyword.value: a.value for a in call.args if a.keyword}
                return _described(source, call, flags, keywords)
    return None


def config_entry(key: str, code: str, at: Lookup) -> Origin | None:
    """Return the origin of a value in a configuration file that the script has read: a line with its key and value.

    `code` is the expression that reads it. Of several such lines, those count whose outer keys are named there.
    """
    if at.value is UNKNOWN:
        return None
    spelled = _SPELLED.get(repr(at.value), re.escape(repr(at.value)))
    entry = re.compile(
        rf"(?:^|[\s{{,\[])[\"']?{re.escape(key)}[\"']?\s*[:=]\s*[\"']?(?:{spelled})[\"']?\s*(?:[,}}\]#;].*)?$"
    )
    found = [
        (file, number, line)
        for file in at.construction.config_files
        for number, line in enumerate(at.sources.config_lines(file), 1)
        if entry.search(line)
    ]
    if len(found) > 1:
        outer = set(re.findall(r"\w+", code)) - {key}
        named = [each for each in found if _outer_key(at.sources.config_lines(each[0]), each[1]) in outer]
        found = named or found
    if not found:
        return None
    places = ", ".join(f"{file}:{number}" for file, number, _ in found)
    return Origin(f"{code}, the key {key} at {places}", at.value, lambda v: f"make it {v!r} there")


def _outer_key(lines: Sequence[str], number: int) -> str:
    """Return the key, or section, that the line with this number is indented below; empty if there is none."""
    indent = len(lines[number - 1]) - len(lines[number - 1].lstrip())
    for line in reversed(lines[: number - 1]):
        text = line.strip()
        if text and (len(line) - len(line.lstrip()) < indent or text.startswith("[")):
            words = re.findall(r"\w+", text)
            return words[0] if words else ""
    return ""


def _definition(source: SourceFile, name: str) -> Origin | None:
    for call in source.calls_of("add_argument"):
        flags = list(_flags(source, call))
        keywords = {a.keyword.value: a.value for a in call.args if a.keyword}
        if flags and _destination(source, flags, keywords) == name:
            return _described(source, call, flags, keywords)
    return None


def _flags(source: SourceFile, call: cst.Call) -> Iterator[str]:
    values = (literal(source, a.value) for a in call.args if a.keyword is None and not a.star)
    return (value for value in values if isinstance(value, str))


def _destination(source: SourceFile, flags: Sequence[str], keywords: dict[str, cst.BaseExpression]) -> str:
    if "dest" in keywords:
        return str(literal(source, keywords["dest"]))
    return _shown(flags).lstrip("-").replace("-", "_")


def _shown(flags: Sequence[str]) -> str:
    """Return the flag that argparse names the value after, and that is easiest to read: the first long one."""
    return next((flag for flag in flags if flag.startswith("--")), flags[0])


def _described(
    source: SourceFile, call: cst.Call, flags: Sequence[str], keywords: dict[str, cst.BaseExpression]
) -> Origin:
    flag = _shown(flags)
    action = keywords.get("action")
    kind = (
        (literal(source, action) if literal(source, action) is not UNKNOWN else last_name(action)) if action else None
    )

    def instead(value: Any) -> str:
        if kind in ("store_true", "store_false"):
            return f"pass {flag}" if value is (kind == "store_true") else f"leave {flag} out"
        if kind == "BooleanOptionalAction":
            return f"pass {flag}" if value else f"pass --no-{flag.lstrip('-')}"
        return f"pass {flag} {value}" if flag.startswith("-") else f"pass {value} as {flag}"

    default = literal(source, keywords["default"]) if "default" in keywords else UNKNOWN
    shown = f" (default {default!r})" if default is not UNKNOWN else ""
    if "default" not in keywords and kind in ("store_true", "store_false"):
        default = kind == "store_false"
    return Origin(f"{flag}{shown}, defined at {source.place(call)}", default, instead, can_vary=True)
