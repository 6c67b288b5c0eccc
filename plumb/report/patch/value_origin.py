"""Origin of a value that a call does not spell out, and what to do there to change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import libcst as cst

from plumb.report.patch.call_chain import Lookup, index_of, own_stars
from plumb.report.patch.option_origin import Origin, click_option, config_entry, parsed_option, static_option
from plumb.report.patch.source_file import (
    UNKNOWN,
    Assignment,
    Function,
    LoaderCall,
    SourceFile,
    last_name,
    literal,
    positional_parameters,
)

_DEEPEST = 8
_CALLERS_SHOWN = 3
# Name of a parameter that gets its value by its position alone.
_BY_POSITION = "*"


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


def hidden(source: SourceFile, call: LoaderCall, star: cst.Arg, name: str, at: Lookup) -> Origin:
    """Return the origin of the argument `name`, which may come through `*arguments` or `**keywords`."""
    code = star.star + source.code(star.value)
    function = source.scope_of(call.node)
    if isinstance(function, cst.FunctionDef) and last_name(star.value) in own_stars(function):
        level = at.caller_of(source, function)
        if level is not None and star.star == "**":
            passed = _passed(at.deeper(level), name, None)
            if passed is not None and literal(passed[0], passed[1]) is UNKNOWN:
                return origin(passed[0], passed[1], passed[2])
        called = _called(source, function)
        callers = _places_of_calls(source, function, at)
        text = f"{code}, what {called} ({source.place(function)}) is called with"
        return Origin(text, UNKNOWN, lambda words: f"pass {words} to it{callers}", True, True, callers)
    named = parsed_option(source, name, at) if star.star == "**" else None
    named = named or (config_entry(name, code, at) if star.star == "**" else None)
    if named is not None:
        return named
    assigned = source.assignments(source.code(star.value), call.node)
    where = f", assigned at {source.place(assigned[0].node)}" if assigned else ""
    return Origin(f"{code}{where}", UNKNOWN, lambda words: f"put {words} into it", takes_keywords=True)


def origin(source: SourceFile, expression: cst.BaseExpression, at: Lookup) -> Origin:
    """Return the origin of an expression's value, for the loader and the calls of `at`."""
    found = None
    if at.depth < _DEEPEST:
        match expression:
            case cst.Name():
                found = _parameter(source, expression, at) or _assigned(source, expression, at)
            case cst.Attribute():
                found = (
                    parsed_option(source, expression.attr.value, at)
                    or _assigned(source, expression, at)
                    or static_option(source, expression.attr.value, at)
                    or _hyperparameter(source, expression, at)
                    or _class_attribute(source, expression, at)
                    or config_entry(expression.attr.value, source.code(expression), at)
                    or _class_attribute(source, expression, replace(at, value=UNKNOWN))
                )
            case cst.Subscript():
                found = _assigned(source, expression, at) or _entry(source, expression, at)
            case cst.Call(func=cst.Attribute(attr=cst.Name(value="get" | "pop"))):
                found = _entry_or_default(source, expression, at)
            case cst.IfExp():
                arms = [arm for arm in (expression.body, expression.orelse) if not _differs(source, arm, at)]
                found = _of_arm(source, arms[0], at) if len(arms) == 1 else None
        if isinstance(expression, (cst.Name, cst.Attribute)):
            found = found or _imported(source, expression, at)
    if found is not None:
        return found
    place = source.place(expression)
    code = source.code(expression)
    return Origin(f"{code} at {place}", UNKNOWN, lambda v: f"make it {v!r}", can_vary=True)


def dictionary(source: SourceFile, expression: cst.BaseExpression) -> cst.Dict | cst.Call | None:
    """Return the display or `dict(...)` call that was assigned, once only, to a name or an entry of a dictionary."""
    if _is_dictionary(expression):
        return expression  # type: ignore[return-value]
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


def set_entries(source: SourceFile, held: cst.BaseExpression, key: Any, at: Lookup) -> list[Assignment]:
    """Return the assignments to the entry `key` of a dictionary, after it was made."""
    spelled = {f"{source.code(held)}[{quote}{key}{quote}]" for quote in "'\""}
    found = [a for text in sorted(spelled) for a in source.assignments(text, held)]
    return [a for a in found if not at.was_skipped(source, a.node) and not _differs(source, a.value, at)]


def entry_origin(source: SourceFile, code: str, value: cst.BaseExpression, at: Lookup) -> Origin:
    """Return the origin of the dictionary entry `code`, for which the dictionary's display has `value`."""
    known = literal(source, value)
    if known is UNKNOWN and is_reference(value):
        return origin(source, value, at.deeper())
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


def _differs(source: SourceFile, value: cst.BaseExpression, at: Lookup) -> bool:
    """Return whether a value is spelled out and is not the one that the loader had."""
    known = literal(source, value)
    return at.value is not UNKNOWN and known is not UNKNOWN and known != at.value


def _of_arm(source: SourceFile, arm: cst.BaseExpression, at: Lookup) -> Origin | None:
    return origin(source, arm, at.deeper()) if literal(source, arm) is UNKNOWN else None


def _parameter(source: SourceFile, name: cst.Name, at: Lookup) -> Origin | None:
    """Return the origin of a parameter of a surrounding function, from the call that ran this function."""
    for function in source.scopes_of(name):
        params = function.params
        for parameter in (*params.posonly_params, *params.params, *params.kwonly_params):
            if parameter.name.value == name.value:
                return _argument(source, function, parameter, at)
        if any(assigned.function is function for assigned in source.assignments(name.value, name)):
            return None
    return None


def _argument(source: SourceFile, function: Function, parameter: cst.Param, at: Lookup) -> Origin:
    """Return the origin of what `function` gets by `parameter`."""
    name = parameter.name.value
    option = click_option(source, function, name)
    if option is not None:
        return option
    positions = positional_parameters(function)
    position = positions.index(name) if name in positions else None
    level = at.caller_of(source, function)
    given: cst.BaseExpression | None = None
    if level is not None:
        passed = _passed(at.deeper(level), name, position)
        if passed is not None and literal(passed[0], passed[1]) is UNKNOWN:
            return origin(passed[0], passed[1], passed[2])
        given_in, given = (passed[0], passed[1]) if passed is not None else (source, None)
        starred = _through_star(at.deeper(level), name) if passed is None else None
        if starred is not None:
            return starred
        link = at.links[level]
        where = f" ({given_in.place(given)})" if given is not None else f" ({link.source.place(link.call)})"
    else:
        calls = _calls(source, function, at)
        only = calls[0] if len(calls) == 1 else None
        if only is not None:
            given_in, given = only[0], _spelled(only[1], name, position)
            if given is not None and literal(given_in, given) is UNKNOWN:
                return origin(given_in, given, at.deeper())
        where = _places(calls)
        if len(calls) != 1:
            text = f"{name}, a parameter of {_called(source, function)} ({source.place(function)})"
            return Origin(text, UNKNOWN, lambda v: f"pass {name}={v!r} to it{where}", True, where=where)
    value = given or parameter.default
    return Origin(
        f"{name}, a parameter of {_called(source, function)} ({source.place(function)})",
        literal(source if given is None else given_in, value) if value is not None else UNKNOWN,
        lambda v: f"pass {name}={v!r} to it{where}",
        can_vary=True,
        where=where,
    )


def _passed(at: Lookup, name: str, position: int | None) -> tuple[SourceFile, cst.BaseExpression, Lookup] | None:
    """Return what the call at the level of `at` passes for a parameter, with its source; None if nothing visible."""
    link = at.links[at.level]
    given = _spelled(link.call, name, position)
    if given is not None:
        return link.source, given, at
    bound = _bound(link.source, link.call.func, name)
    if bound is not None:
        return link.source, bound, at
    function = link.source.scope_of(link.call)
    star, double = own_stars(function)
    level = at.caller_of(link.source, function) if function is not None else None
    plain = [a for a in link.call.args if a.keyword is None and a.star != "**"]
    before = next((n for n, a in enumerate(plain) if a.star), len(plain))
    for argument in link.call.args:
        if argument.star == "**" and last_name(argument.value) == double and double is not None:
            further = _passed(at.deeper(level), name, None) if level is not None else None
            if further is not None:
                return further
        elif argument.star == "**":
            around = dictionary(link.source, argument.value)
            later = set_entries(link.source, argument.value, name, at)
            value = later[-1].value if later else entry(link.source, around, name) if around is not None else None
            if value is not None:
                return link.source, value, at
        elif argument.star == "*" and last_name(argument.value) == star and star is not None:
            if function is None or level is None or position is None or position < before:
                continue
            own = len(positional_parameters(function))
            further = _passed(at.deeper(level), _BY_POSITION, own + position - before)
            if further is not None:
                return further
    return None


def _through_star(at: Lookup, name: str) -> Origin | None:
    """Return the origin of an argument in a `**value` of the call at this level, if options or a file have it."""
    link = at.links[at.level]
    for argument in link.call.args:
        if argument.star == "**":
            code = f"**{link.source.code(argument.value)}"
            found = parsed_option(link.source, name, at) or config_entry(name, code, at)
            if found is not None:
                return found
    return None


def _spelled(call: cst.Call, name: str, position: int | None) -> cst.BaseExpression | None:
    index = index_of(call, [*[""] * position, name] if position is not None else [], name)
    return None if index is None else call.args[index].value


def _bound(source: SourceFile, called: cst.BaseExpression, name: str) -> cst.BaseExpression | None:
    """Return the value that the `functools.partial` behind `called` has for a keyword."""
    assigned = source.assignments(source.code(called), called)
    value = assigned[0].value if len(assigned) == 1 else called
    if isinstance(value, cst.Call) and last_name(value.func) == "partial":
        return next((a.value for a in value.args if a.keyword and a.keyword.value == name), None)
    return None


def _assigned(source: SourceFile, expression: cst.BaseExpression, at: Lookup) -> Origin | None:
    """Return the origin of a value that the user's code assigns, without assignments that were not executed."""
    code = source.code(expression)
    found = [(source, a) for a in source.assignments(code, expression)]
    if not found and code.startswith("self."):
        places = (source, *at.others(source, code))
        found = [(each, a) for each in places for a in each.attribute_assignments(code)]
    found = [pair for pair in found if not at.was_skipped(pair[0], pair[1].node)]
    changed = any(isinstance(a.node, cst.AugAssign) for _, a in found)
    fitting = [(s, a) for s, a in found if not _differs(s, a.value, at)]
    # If none fits, the source has changed since.
    found = found if changed else fitting or found
    return _of_assignments(code, found, at)


def _of_assignments(code: str, found: Sequence[tuple[SourceFile, Assignment]], at: Lookup) -> Origin | None:
    if not found:
        return None
    if len(found) > 1:
        places = ", ".join(source.place(a.node) for source, a in found)
        return Origin(f"{code}, assigned at {places}", UNKNOWN, lambda v: f"make it {v!r} there", can_vary=True)
    source, assigned = found[0]
    value = literal(source, assigned.value)
    if value is UNKNOWN and (is_reference(assigned.value) or _is_looked_up(assigned.value)):
        return origin(source, assigned.value, at.deeper())
    place = source.place(assigned.node)
    return Origin(f"{code}, assigned at {place}", value, lambda v: f"make it {v!r} there")


def _is_looked_up(value: cst.BaseExpression) -> bool:
    """Return whether an expression gets its value from a dictionary by a method."""
    return isinstance(value, cst.Call) and last_name(value.func) in ("get", "pop")


def _imported(source: SourceFile, expression: cst.Name | cst.Attribute, at: Lookup) -> Origin | None:
    """Return the origin of a name that another module of the user's assigns."""
    for full in source.imported_names(expression):
        module, _, name = full.strip(".").rpartition(".")
        parts = tuple(module.split("."))
        for other in at.others(source, name) if module else ():
            path = other.path.resolve().with_suffix("").parts
            if path[-len(parts) :] == parts or path[-len(parts) - 1 :] == (*parts, "__init__"):
                assigned = [(other, a) for a in other.module_assignments(name)]
                assigned = [pair for pair in assigned if not _differs(other, pair[1].value, at)]
                found = _of_assignments(source.code(expression), assigned, at)
                if found is not None:
                    return found
    return None


def _hyperparameter(source: SourceFile, expression: cst.Attribute, at: Lookup) -> Origin | None:
    """Return the origin of `self.hparams.NAME`, which is a parameter of the class's constructor."""
    around = source.class_of(expression)
    if around is None or source.code(expression.value) != "self.hparams":
        return None
    for part in around.body.body:
        if isinstance(part, cst.FunctionDef) and part.name.value == "__init__":
            found = (
                p for p in (*part.params.params, *part.params.kwonly_params) if p.name.value == expression.attr.value
            )
            parameter = next(found, None)
            return _argument(source, part, parameter, at.deeper()) if parameter is not None else None
    return None


def _class_attribute(source: SourceFile, expression: cst.Attribute, at: Lookup) -> Origin | None:
    """Return the origin of a field of a settings class, if exactly one class has such a field.

    It is what the class's only call passes for the field, else the field's default.
    """
    name = expression.attr.value
    found = [(each, a) for each in (source, *at.others(source, name)) for a in each.class_attributes(name)]
    if len(found) != 1:
        return None
    home, field = found[0]
    around = home.class_of(field.node)
    kind = around.name.value if around is not None else ""
    calls = _calls_of(home, kind, at)
    if len(calls) == 1:
        where, call = calls[0]
        passed = _spelled(call, name, None)
        if passed is not None and literal(where, passed) is UNKNOWN:
            return origin(where, passed, at.deeper())
        if passed is not None:
            text = f"{source.code(expression)}, passed to {kind} at {where.place(passed)}"
            return Origin(text, literal(where, passed), lambda v: f"make it {v!r} there", can_vary=True)
    if at.value is not UNKNOWN and _differs(home, field.value, at):
        return None
    text = f"{source.code(expression)}, a field defined at {home.place(field.node)}"
    return Origin(text, literal(home, field.value), lambda v: f"make it {v!r} there", can_vary=True)


def _entry(source: SourceFile, expression: cst.Subscript, at: Lookup) -> Origin | None:
    """Return the origin of a dictionary entry that the file spells out, or that comes from a value it reads."""
    code, (outer, key) = source.code(expression), _parts(source, expression)
    if outer is None:
        return None
    around = dictionary(source, outer)
    value = entry(source, around, key) if around is not None else None
    if value is not None and not _differs(source, value, at):
        return entry_origin(source, code, value, at)
    later = set_entries(source, outer, key, at)
    if later:
        return entry_origin(source, code, later[-1].value, at)
    found = config_entry(str(key), code, at) or (parsed_option(source, key, at) if isinstance(key, str) else None)
    if found is not None:
        return found
    if value is not None:
        return entry_origin(source, code, value, at)
    root = outer
    while isinstance(root, (cst.Subscript, cst.Attribute)) and not source.assignments(source.code(root), outer):
        root = root.value
    read = source.assignments(source.code(root), outer)
    if not read:
        return None
    text = f"{code}, where {source.code(root)} is {source.code(read[0].value)} at {source.place(read[0].node)}"
    return Origin(text, UNKNOWN, lambda v: f"set it to {v!r} there", can_vary=True)


def _entry_or_default(source: SourceFile, call: cst.Call, at: Lookup) -> Origin | None:
    """Return the origin of `config.get(key, default)`: the entry in a configuration file, else the default."""
    arguments = [a.value for a in call.args]
    if not arguments or not isinstance(call.func, cst.Attribute):
        return None
    key, code = literal(source, arguments[0]), source.code(call)
    around = dictionary(source, call.func.value)
    value = entry(source, around, key) if around is not None else None
    if value is not None:
        return entry_origin(source, code, value, at)
    found = config_entry(str(key), code, at)
    if found is None and len(arguments) > 1 and literal(source, arguments[1]) == at.value:
        place = source.place(call)
        return Origin(f"the default in {code} at {place}", at.value, lambda v: f"make it {v!r} there", can_vary=True)
    return found


def _calls(source: SourceFile, function: Function, at: Lookup) -> list[tuple[SourceFile, cst.Call]]:
    """Return the calls of a function in the user's files: those that make this loader, if their names say so."""
    if not isinstance(function, cst.FunctionDef):
        return []
    is_method = source.class_of(function) is not None and function.name.value != "__init__"
    calls = _calls_of(source, _called(source, function), at, is_method)
    return [pair for pair in calls if pair[0].name_of(pair[1]) == at.loader] or calls


def _calls_of(home: SourceFile, name: str, at: Lookup, is_method: bool = False) -> list[tuple[SourceFile, cst.Call]]:
    """Return the calls of what `home` defines as `name`: in other files, only if they import it from there."""
    folders = set(home.path.resolve().with_suffix("").parts)
    found = [(home, call) for call in home.calls_of(name)]
    for other in at.others(home, name):
        for call in other.calls_of(name):
            modules = [full.split(".")[:-1] for full in other.imported_names(call.func)]
            if is_method or any(folders.intersection(parts) for parts in modules):
                found.append((other, call))
    return found


def _called(source: SourceFile, function: Function) -> str:
    """Return the name by which `function` is called: its own, or its class's for a constructor."""
    if not isinstance(function, cst.FunctionDef):
        return "the lambda"
    around = source.class_of(function)
    return around.name.value if around is not None and function.name.value == "__init__" else function.name.value


def _places_of_calls(source: SourceFile, function: Function, at: Lookup) -> str:
    level = at.caller_of(source, function)
    if level is not None:
        return _places([(at.links[level].source, at.links[level].call)])
    return _places(_calls(source, function, at))


def _places(calls: Sequence[tuple[SourceFile, cst.Call]]) -> str:
    """Return the places of the first few calls, formatted for the end of a sentence."""
    if not calls:
        return ""
    more = ", ..." if len(calls) > _CALLERS_SHOWN else ""
    return f" ({', '.join(source.place(call) for source, call in calls[:_CALLERS_SHOWN])}{more})"
