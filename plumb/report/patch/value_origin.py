"""Origin of a value that a call does not spell out, and what to do there to change it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import libcst as cst

from plumb.report.patch.source_file import LoaderCall, SourceFile, last_name

# Stands for a value that can't be read from the source alone.
UNKNOWN = object()
_DEEPEST = 6
_CALLERS_SHOWN = 3


@dataclass(frozen=True)
class Origin:
    """Origin of a value in words, with the value if the source shows it, and how to change it.

    `instead` returns a phrase for a new value, or for `name=value` if `takes_keywords`. `can_vary`: the value may
    change without an edit at that place.
    """

    text: str
    value: Any
    instead: Callable[[Any], str]
    can_vary: bool = False
    takes_keywords: bool = False


def literal(source: SourceFile, expression: cst.BaseExpression) -> Any:
    """Return the value of a literal; UNKNOWN for any other expression."""
    try:
        return ast.literal_eval(source.code(expression))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return UNKNOWN


def is_reference(expression: cst.BaseExpression) -> bool:
    """Return whether an expression only refers to a value, so that it may be repeated: `workers`, `cfg["w"]`."""
    match expression:
        case cst.Name():
            return True
        case cst.Attribute(value=value):
            return is_reference(value)
        case cst.Subscript(value=value, slice=[cst.SubscriptElement(slice=cst.Index(value=key))]):
            return is_reference(value) and isinstance(key, (cst.SimpleString, cst.Integer, cst.Name))
    return False


def preset(source: SourceFile, expression: cst.BaseExpression) -> Origin:
    """Return the origin of an argument that a `functools.partial` bound."""
    text = f"functools.partial at {source.place(expression)}"
    return Origin(text, literal(source, expression), lambda words: f"write {words} there", takes_keywords=True)


def hidden(source: SourceFile, call: LoaderCall, star: cst.Arg) -> Origin:
    """Return the origin of an argument that may come through `*arguments` or `**keywords`."""
    code = star.star + source.code(star.value)
    function = source.function_of(call.node)
    if function is not None and _is_own_star(function, star.value):
        called = _called(source, function)
        callers = _places(source, source.calls_of(called))
        text = f"{code}, what {called} ({source.place(function)}) is called with"
        return Origin(text, UNKNOWN, lambda words: f"pass {words} to it{callers}", True, takes_keywords=True)
    assigned = source.assignments(source.code(star.value), call.node)
    where = f", assigned at {source.place(assigned[0].node)}" if assigned else ""
    return Origin(f"{code}{where}", UNKNOWN, lambda words: f"put {words} into it", takes_keywords=True)


def origin(source: SourceFile, expression: cst.BaseExpression, loader: str, depth: int = 0) -> Origin:
    """Return the origin of an expression's value; `loader` is the name of the loader that gets it."""
    code = source.code(expression)
    found = None
    if depth < _DEEPEST:
        if isinstance(expression, cst.Name):
            found = _parameter(source, expression, loader, depth)
        found = found or _assigned(source, expression, loader, depth)
        if isinstance(expression, cst.Attribute):
            found = found or _option(source, expression) or _class_attribute(source, expression)
        if isinstance(expression, cst.Subscript):
            found = found or _entry(source, expression, loader, depth)
    if found is not None:
        return found
    place = source.place(expression)
    return Origin(f"{code} at {place}", UNKNOWN, lambda v: f"make it {v!r}", can_vary=True)


def dictionary(source: SourceFile, expression: cst.BaseExpression) -> cst.Dict | cst.Call | None:
    """Return the display or `dict(...)` call that was assigned, once only, to a name or an entry of a dictionary."""
    if isinstance(expression, cst.Subscript):
        outer, key = _parts(source, expression)
        around = dictionary(source, outer) if outer is not None else None
        value = entry(source, around, key) if around is not None else None
        return value if value is not None and _is_dictionary(value) else None  # type: ignore[return-value]
    assigned = source.assignments(source.code(expression), expression)
    if len(assigned) == 1 and _is_dictionary(assigned[0].value):
        return assigned[0].value  # type: ignore[return-value]
    return None


def entry(source: SourceFile, around: cst.Dict | cst.Call, key: Any) -> cst.BaseExpression | None:
    """Return the value for `key` in a dictionary display or a `dict(...)` call; None if there is none."""
    if isinstance(around, cst.Call):
        return next((a.value for a in around.args if a.keyword and a.keyword.value == key), None)
    entries = (e for e in around.elements if isinstance(e, cst.DictElement))
    return next((e.value for e in entries if literal(source, e.key) == key), None)


def entry_origin(source: SourceFile, code: str, value: cst.BaseExpression, loader: str, depth: int = 0) -> Origin:
    """Return the origin of the dictionary entry `code`, for which the dictionary's display has `value`."""
    known = literal(source, value)
    if known is UNKNOWN and is_reference(value):
        return origin(source, value, loader, depth + 1)
    return Origin(f"{code}, assigned at {source.place(value)}", known, lambda v: f"make it {v!r} there")


def is_complete(source: SourceFile, name: cst.Name, around: cst.Dict | cst.Call) -> bool:
    """Return whether a dictionary assigned to `name` never gets other entries than those of its display."""
    if isinstance(around, cst.Call) and any(a.keyword is None for a in around.args):
        return False
    if isinstance(around, cst.Dict) and not all(
        isinstance(e, cst.DictElement) and isinstance(e.key, cst.SimpleString) for e in around.elements
    ):
        return False
    return all(_only_reads(use, name.value) for use in source.uses(name.value, name))


def _only_reads(use: cst.CSTNode, name: str) -> bool:
    match use:
        case cst.Arg(star="**") | cst.AssignTarget() | cst.AnnAssign():
            return True
        case cst.Arg(keyword=cst.Name(value=keyword), value=cst.Name(value=value)):
            return keyword == name != value
    return False


def _is_dictionary(value: cst.BaseExpression) -> bool:
    return isinstance(value, cst.Dict) or (isinstance(value, cst.Call) and last_name(value.func) == "dict")


def _parts(source: SourceFile, expression: cst.Subscript) -> tuple[cst.BaseExpression | None, Any]:
    match expression.slice:
        case [cst.SubscriptElement(slice=cst.Index(value=key))]:
            return expression.value, literal(source, key)
    return None, UNKNOWN


def _parameter(source: SourceFile, name: cst.Name, loader: str, depth: int) -> Origin | None:
    """Return the origin of a parameter of the surrounding function, from the call that makes this loader."""
    function = source.function_of(name)
    if function is None:
        return None
    parameters = [*function.params.posonly_params, *function.params.params, *function.params.kwonly_params]
    parameter = next((p for p in parameters if p.name.value == name.value), None)
    if parameter is None:
        return None
    option = _click_option(source, function, name.value)
    if option is not None:
        return option
    called = _called(source, function)
    calls = source.calls_of(called)
    calls = [call for call in calls if source.name_of(call) == loader] or calls
    if len(calls) == 1:
        position = parameters.index(parameter) - (parameters[0].name.value in ("self", "cls"))
        passed = _passed(calls[0], name.value, position)
        if passed is not None and literal(source, passed) is UNKNOWN:
            return origin(source, passed, loader, depth + 1)
        given = passed or parameter.default
        value = literal(source, given) if given is not None else UNKNOWN
    else:
        value = UNKNOWN
    where = _places(source, calls)
    return Origin(
        f"{name.value}, a parameter of {called} ({source.place(function)})",
        value,
        lambda v: f"pass {name.value}={v!r} to it{where}",
        can_vary=True,
    )


def _passed(call: cst.Call, name: str, position: int) -> cst.BaseExpression | None:
    by_name = next((a.value for a in call.args if a.keyword and a.keyword.value == name), None)
    plain = [a.value for a in call.args if a.keyword is None and not a.star]
    return by_name or (plain[position] if 0 <= position < len(plain) else None)


def _assigned(source: SourceFile, expression: cst.BaseExpression, loader: str, depth: int) -> Origin | None:
    """Return the origin of a value that the file assigns."""
    code = source.code(expression)
    found = source.assignments(code, expression)
    if not found:
        return None
    if len(found) > 1:
        places = ", ".join(source.place(a.node) for a in found)
        return Origin(f"{code}, assigned at {places}", UNKNOWN, lambda v: f"make it {v!r} there", can_vary=True)
    value = literal(source, found[0].value)
    if value is UNKNOWN and is_reference(found[0].value):
        return origin(source, found[0].value, loader, depth + 1)
    return Origin(f"{code}, assigned at {source.place(found[0].node)}", value, lambda v: f"make it {v!r} there")


def _class_attribute(source: SourceFile, expression: cst.Attribute) -> Origin | None:
    """Return the origin of a field of a settings class, if exactly one class has such a field."""
    found = source.class_attributes(expression.attr.value)
    if len(found) != 1:
        return None
    text = f"{source.code(expression)}, a field defined at {source.place(found[0].node)}"
    return Origin(text, literal(source, found[0].value), lambda v: f"make it {v!r} there", can_vary=True)


def _entry(source: SourceFile, expression: cst.Subscript, loader: str, depth: int) -> Origin | None:
    """Return the origin of a dictionary entry that the file spells out, or that comes from a value it reads."""
    code, (outer, key) = source.code(expression), _parts(source, expression)
    if outer is None:
        return None
    around = dictionary(source, outer)
    value = entry(source, around, key) if around is not None else None
    if value is not None:
        return entry_origin(source, code, value, loader, depth)
    root = outer
    while isinstance(root, (cst.Subscript, cst.Attribute)) and not source.assignments(source.code(root), outer):
        root = root.value
    read = source.assignments(source.code(root), outer)
    if not read:
        return None
    text = f"{code}, where {source.code(root)} is {source.code(read[0].value)} at {source.place(read[0].node)}"
    return Origin(text, UNKNOWN, lambda v: f"set it to {v!r} there", can_vary=True)


def _option(source: SourceFile, expression: cst.Attribute) -> Origin | None:
    """Return the origin of an attribute of argparse's result: the parser's option of that name."""
    for call in source.calls_of("add_argument"):
        flags = list(_flags(source, call))
        keywords = {a.keyword.value: a.value for a in call.args if a.keyword}
        if flags and _destination(source, flags, keywords) == expression.attr.value:
            return _described(source, call, flags, keywords)
    return None


def _click_option(source: SourceFile, function: cst.FunctionDef, name: str) -> Origin | None:
    """Return the origin of a parameter that a decorator of `function` makes from a command line option."""
    for decorator in function.decorators:
        call = decorator.decorator
        if isinstance(call, cst.Call) and last_name(call.func) == "option":
            flags = [flag for flag in _flags(source, call) if flag.startswith("-")]
            if flags and _destination(source, flags, {}) == name:
                keywords = {a.keyword.value: a.value for a in call.args if a.keyword}
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
    if "default" not in keywords and kind in ("store_true", "store_false"):
        default = kind == "store_false"
    return Origin(f"{flag}, defined at {source.place(call)}", default, instead, can_vary=True)


def _called(source: SourceFile, function: cst.FunctionDef) -> str:
    """Return the name by which `function` is called: its own, or its class's for a constructor."""
    around = source.class_of(function)
    return around.name.value if around is not None and function.name.value == "__init__" else function.name.value


def _is_own_star(function: cst.FunctionDef, value: cst.BaseExpression) -> bool:
    stars = (function.params.star_kwarg, function.params.star_arg)
    names = {star.name.value for star in stars if isinstance(star, cst.Param)}
    return isinstance(value, cst.Name) and value.value in names


def _places(source: SourceFile, calls: Sequence[cst.Call]) -> str:
    """Return the places of the first few calls, formatted for the end of a sentence."""
    if not calls:
        return ""
    more = ", ..." if len(calls) > _CALLERS_SHOWN else ""
    return f" ({', '.join(source.place(call) for call in calls[:_CALLERS_SHOWN])}{more})"
