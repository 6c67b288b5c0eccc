"""Edits of a call's arguments that keep its formatting: lines, indentation, commas and comments."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import libcst as cst

_BLANK = cst.SimpleWhitespace(" ")
_NOTHING = cst.SimpleWhitespace("")
_TIGHT = cst.AssignEqual(whitespace_before=_NOTHING, whitespace_after=_NOTHING)
Whitespace = cst.BaseParenthesizableWhitespace


@dataclass(frozen=True)
class _Item:
    """An argument without its comma, and the whitespace between it and the next one or the closing bracket."""

    argument: cst.Arg
    before_comma: Whitespace
    gap: Whitespace


def edit(
    call: cst.Call,
    replaced: Mapping[int, str],
    removed: Collection[int],
    added: Mapping[str, str],
    between: Whitespace | None,
) -> cst.Call:
    """Return `call` with some arguments replaced, removed and added; everything else stays the same to the byte.

    Args:
        call: Call to edit.
        replaced: New source text of argument values, by the arguments' indices.
        removed: Indices of the arguments to remove.
        added: Source text of the values to add, by keyword.
        between: Whitespace before each added argument; None takes that between the call's own arguments.

    """
    arguments = [
        argument.with_changes(value=cst.parse_expression(replaced[index])) if index in replaced else argument
        for index, argument in enumerate(call.args)
    ]
    if not removed and not added:
        return call.with_changes(args=arguments)
    has_trailing_comma = bool(arguments) and isinstance(arguments[-1].comma, cst.Comma)
    items = [_item(argument) for argument in arguments]
    for index in sorted(removed, reverse=True):
        items = _without(items, index)
    if added:
        items = _with(items, added, between or _separator(items, call.whitespace_before_args))
    return call.with_changes(args=_joined(items, has_trailing_comma))


def _item(argument: cst.Arg) -> _Item:
    if isinstance(argument.comma, cst.Comma):
        bare = argument.with_changes(comma=cst.MaybeSentinel.DEFAULT)
        return _Item(bare, argument.comma.whitespace_before, argument.comma.whitespace_after)
    return _Item(argument.with_changes(whitespace_after_arg=_NOTHING), _NOTHING, argument.whitespace_after_arg)


def _joined(items: Sequence[_Item], has_trailing_comma: bool) -> list[cst.Arg]:
    arguments = []
    for position, item in enumerate(items):
        if position < len(items) - 1 or has_trailing_comma:
            comma = cst.Comma(whitespace_before=item.before_comma, whitespace_after=item.gap)
            arguments.append(item.argument.with_changes(comma=comma))
        else:
            arguments.append(item.argument.with_changes(whitespace_after_arg=item.gap))
    return arguments


def _without(items: Sequence[_Item], index: int) -> list[_Item]:
    """Return the items without one, but with the line end at which it stood and a comment on the item before it."""
    kept = [*items[:index], *items[index + 1 :]]
    if index == 0:
        return kept
    before, gone = items[index - 1].gap, items[index].gap
    is_last = index == len(items) - 1
    between = before if _is_line_end(before) else gone
    kept[index - 1] = replace(items[index - 1], gap=_closing(before, gone) if is_last else between)
    return kept


def _with(items: Sequence[_Item], added: Mapping[str, str], separator: Whitespace) -> list[_Item]:
    """Return the items with more keywords after them, but before any `**`."""
    equal = next((item.argument.equal for item in items if item.argument.keyword), _TIGHT)
    arguments = [
        cst.Arg(keyword=cst.Name(name), value=cst.parse_expression(value), equal=equal) for name, value in added.items()
    ]
    first_star = next((n for n, item in enumerate(items) if item.argument.star == "**"), len(items))
    head, tail = list(items[:first_star]), list(items[first_star:])
    new = [_Item(argument, _NOTHING, separator) for argument in arguments]
    if not head:
        return [*new, *tail] if tail else [*new[:-1], replace(new[-1], gap=_NOTHING)]
    end = head[-1].gap
    if _is_line_end(separator):
        # A comment on the last line belongs to that line's argument, so it stays there.
        head[-1] = replace(head[-1], gap=_with_comment_of(separator, end))
        end = _without_comment(end)
    else:
        head[-1] = replace(head[-1], gap=separator)
    new[-1] = replace(new[-1], gap=end)
    return [*head, *new, *tail]


def _separator(items: Sequence[_Item], opening: Whitespace) -> Whitespace:
    """Return the whitespace between two arguments of this call: a line end if each has its own line, else a blank."""
    gaps = [item.gap for item in items[:-1]] or ([opening] if items else [])
    if gaps and all(_is_line_end(gap) for gap in gaps):
        return _plain_line_end(gaps[-1])
    return next((gap for gap in gaps if not _is_line_end(gap)), _BLANK) if len(items) > 1 else _BLANK


def _is_line_end(gap: Whitespace) -> bool:
    return isinstance(gap, cst.ParenthesizedWhitespace)


def _comment(gap: Whitespace) -> Any:
    return gap.first_line.comment if isinstance(gap, cst.ParenthesizedWhitespace) else None


def _plain_line_end(gap: Whitespace) -> Whitespace:
    """Return the same line end and indentation without comments and empty lines."""
    return _without_comment(gap).with_changes(empty_lines=[])


def _without_comment(gap: Whitespace) -> Whitespace:
    if not isinstance(gap, cst.ParenthesizedWhitespace) or gap.first_line.comment is None:
        return gap
    bare = gap.first_line.with_changes(comment=None, whitespace=_NOTHING)
    return gap.with_changes(first_line=bare)


def _with_comment_of(gap: Whitespace, other: Whitespace) -> Whitespace:
    if _comment(other) is None:
        return gap
    return gap.with_changes(first_line=other.first_line)  # type: ignore[attr-defined]


def _closing(before: Whitespace, gone: Whitespace) -> Whitespace:
    """Return the whitespace before the closing bracket after the last argument was removed."""
    if _comment(before) is None:
        return gone if _comment(gone) is None or not _is_line_end(before) else _without_comment(gone)
    return _with_comment_of(gone, before) if _is_line_end(gone) else before
