"""Commands whose flags read as those of the stock CLI: `--tls=false`, `--not --verdict DROPPED`, subcommands.

click knows neither values of switches nor flags that change the next one, so the words are rewritten first:
`--tls=false` becomes `--no-tls`, `--not --verdict X` the hidden `--not-verdict X`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

NOT: Final = "--not"
FILTER_PREFIX: Final = "filter_"
TRUE, FALSE = ("true", "1", "t"), ("false", "0", "f")


class GoCommand(click.Command):
    """A command whose switches take `=true` and `=false`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite switches with values, then parse."""
        return super().parse_args(ctx, plain_switches(self, ctx, args))


class ViewsCommand(GoCommand):
    """A command that is its own default view and has further views by name, each loaded when named."""

    views: Mapping[str, str] = {}
    """`module:object` by name; an empty target is the command itself."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Hand over to the view that the first word names."""
        target = self.views.get(args[0]) if args else None
        if target is None:
            return super().make_context(info_name, args, parent, **extra)
        name, rest = f"{info_name} {args[0]}", args[1:]
        if not target:
            return super().make_context(name, rest, parent, **extra)
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command.make_context(name, rest, parent, **extra)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """The views, besides the options."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name) for name in self.views if name.startswith(incomplete)]
        return [*found, *super().shell_complete(ctx, incomplete)]


def plain_switches(command: click.Command, ctx: click.Context, args: Sequence[str]) -> list[str]:
    """`--name=true` as `--name`, `--name=false` as `--no-name` or, for plain switches, as nothing."""
    opposites: dict[str, str | None] = {}
    for option in command.get_params(ctx):
        if isinstance(option, click.Option) and option.is_flag and not option.count:
            opposite = next(iter(option.secondary_opts), None)
            opposites |= dict.fromkeys(option.opts, opposite)
    result: list[str] = []
    for position, word in enumerate(args):
        if word == "--":
            return [*result, *args[position:]]
        head, equals, tail = word.partition("=")
        if not equals or head not in opposites or tail.lower() not in TRUE + FALSE:
            result.append(word)
        elif tail.lower() in TRUE:
            result.append(head)
        elif (opposite := opposites[head]) is not None:
            result.append(opposite)
    return result


def bind_negations(command: click.Command, ctx: click.Context, args: Sequence[str]) -> list[str]:
    """Turn `--not --flag value` into `--not-flag value`, a hidden option. Raises UsageError."""
    names, valued = _options(command, ctx)
    result: list[str] = []
    negate, is_value = False, False
    for token in args:
        head, equals, tail = token.partition("=")
        if is_value:
            is_value = False
        elif token == NOT:
            if negate:
                raise click.UsageError("--not cannot be followed by --not", ctx)
            negate = True
            continue
        elif negate and head in names:
            long, takes_value = names[head]
            token = f"--not-{long.removeprefix('--')}{equals}{tail}"
            negate, is_value = False, takes_value and not equals
        else:
            is_value = token in valued
        result.append(token)
    if negate:
        raise click.UsageError("--not is followed by no filter", ctx)
    return result


def _options(command: click.Command, ctx: click.Context) -> tuple[dict[str, tuple[str, bool]], set[str]]:
    """Filters by each of their names as (long name, takes a value), and all names that take a value."""
    names: dict[str, tuple[str, bool]] = {}
    valued: set[str] = set()
    for option in command.get_params(ctx):
        if not isinstance(option, click.Option):
            continue
        long = next((text for text in option.opts if text.startswith("--")), "")
        if (option.name or "").startswith(FILTER_PREFIX):
            names |= dict.fromkeys(option.opts, (long, not option.is_flag))
        if not option.is_flag:
            valued |= set(option.opts)
    return names, valued
