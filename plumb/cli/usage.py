"""Commands whose usage errors name what was probably meant, and whose help ends with examples."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import click


class Command(click.Command):
    """A command with examples at the end of its help. An unknown option gets the nearest one as a suggestion."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "epilog": _epilog(examples)})
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words after the command. Raise UsageError for an option that it doesn't have."""
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            _refuse_option(ctx, error.option_name)
        words = ctx.params.get("script")
        # Options of the script may be anything, so that click accepts an unknown one in front of it, too.
        if isinstance(words, tuple) and words and _is_option(words[0]) and not os.path.exists(words[0]):
            _refuse_option(ctx, words[0].partition("=")[0])
        return rest


class Group(click.Group):
    """A group of such commands. A mistyped command gets the nearest one as a suggestion."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "epilog": _epilog(examples)})
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words up to the command. Raise UsageError for an option that belongs behind it."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            _refuse_option(ctx, error.option_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names. Raise UsageError if there is none."""
        word = args[0]
        if self.get_command(ctx, word) is None and not _is_option(word):
            meant = _nearest(word, self.commands)
            if meant is None and os.path.isfile(word):
                ctx.fail(f"{word!r} is a file: name a command before it, for example: {ctx.command_path} tune {word}")
            ctx.fail(f"No such command {word!r}.{_suggestion(meant)}")
        return super().resolve_command(ctx, args)


def options_of(command: click.Command) -> list[str]:
    """Return all spellings of a command's options."""
    return [word for each in command.params if isinstance(each, click.Option) for word in each.opts]


def misplaced_options(command: click.Command, words: Iterable[str]) -> list[str]:
    """Return those of the words behind a script that are options of plumb's `command`."""
    own = {word for word in options_of(command) if word.startswith("--")}
    return list(dict.fromkeys(word.partition("=")[0] for word in words if word.partition("=")[0] in own))


def _refuse_option(ctx: click.Context, name: str) -> NoReturn:
    """Raise UsageError with the option that was probably meant: the command's own, else that of another command."""
    own = [word for each in ctx.command.get_params(ctx) for word in each.opts if word.startswith("-")]
    root = ctx.find_root()
    commands = root.command.commands if isinstance(root.command, click.Group) else {}
    all_options = {word for each in commands.values() for word in options_of(each)}
    meant = name if name in all_options else _nearest(name, own) or _nearest(name, all_options)
    owners = [f"{root.command_path} {other}" for other, each in commands.items() if meant in options_of(each)]
    refusal = f"No such option {name!r}.{_suggestion(None if meant == name else meant)}"
    if meant in own or not owners:
        ctx.fail(refusal)
    where = "Write it after" if isinstance(ctx.command, click.Group) else "It is one of"
    ctx.fail(f"{refusal} {where}: {', '.join(owners)}")


def _is_option(word: str) -> bool:
    return word.startswith("-") and word not in ("-", "-m")


def _suggestion(meant: str | None) -> str:
    return f" Did you mean {meant!r}?" if meant else ""


def _nearest(word: str, known: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(word, list(known), 1)), None)


def _epilog(examples: Sequence[str]) -> str | None:
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in examples))) if examples else None
