"""Configuration of a process: one frozen dataclass is the only definition.

Its fields give the flags, the environment variables, the keys of the TOML file, `--help` and the table in the
docs. Later wins: defaults, TOML file, `AXONEME_*` environment, flags. An unknown key in the file is an error,
so that a misspelt limit never passes for a set one; an unknown environment variable is not ours to judge.

The processes of a node read one file. A class with a `SECTION` has its settings in the table of that name,
and the environment variables `AXONEME_<SECTION>_*`; those in its `SHARED` are of the whole node: they stand
at the top of the file, where settings that are not in `SHARED` are left to who knows them.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from axoneme.lib.errors import FieldViolation, InvalidArgument

ENVIRONMENT_PREFIX = "AXONEME_"
SECTIONS = frozenset({"fqdn"})
"""Tables of a node's file that belong to one process alone."""
TRUE_WORDS, FALSE_WORDS = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}

Config = TypeVar("Config")


def option(default: Any, help: str, *, metavar: str | None = None) -> Any:  # noqa: A002
    """A configuration field with its default, its sentence for `--help` and the placeholder of its value."""
    return dataclasses.field(default=default, metadata={"help": help, "metavar": metavar})


def load(
    cls: type[Config],
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | str | None = None,
) -> Config:
    """Builds `cls` from the four sources. Raises InvalidArgument that names every wrong value."""
    values: dict[str, Any] = {}
    faults: list[FieldViolation] = []
    for source, raw in _sources(cls, flags or {}, os.environ if environ is None else environ, file, faults):
        for name, text in raw.items():
            try:
                values[name] = convert(_types(cls)[name], text)
            except ValueError as error:
                faults.append(FieldViolation(f"{source}{name}", str(error)))
    if faults:
        text = "; ".join(f"{fault.field}: {fault.description}" for fault in faults)
        raise InvalidArgument(f"configuration: {text}", reason="CONFIGURATION_INVALID", violations=faults)
    return cls(**values)


def click_options(cls: type[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: adds `--config FILE` and a flag per field; the command gets `config=` a loaded `cls`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        names = [field.name for field in _fields(cls)]

        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> Any:
            flags = {name: value for name in names if (value := kwargs.pop(name)) is not None}
            try:
                config = load(cls, flags=flags, file=kwargs.pop("config_file"))
            except InvalidArgument as error:
                raise click.UsageError(str(error)) from error
            return command(*args, config=config, **kwargs)

        decorated: Callable[..., Any] = run
        for field in reversed(_fields(cls)):
            decorated = _flag(field, _types(cls)[field.name])(decorated)
        path = click.Path(exists=True, dir_okay=False, path_type=Path)
        help_text = "TOML file with any of the settings below (names with _ instead of -)."
        return click.option("--config", "config_file", type=path, default=None, help=help_text)(decorated)

    return decorate


def table(cls: type[Any]) -> list[tuple[str, str, str, str]]:
    """Rows (flag, environment variable, default, help) for the docs."""
    return [
        (
            flag_name(field.name),
            _environment_name(cls, field.name),
            _text(field.default),
            field.metadata.get("help", ""),
        )
        for field in _fields(cls)
    ]


def flag_name(field_name: str) -> str:
    """`a_b` → `--a-b`."""
    return "--" + field_name.replace("_", "-")


def environment_name(field_name: str) -> str:
    """`a_b` → `AXONEME_A_B`."""
    return ENVIRONMENT_PREFIX + field_name.upper()


def convert(wanted: Any, value: Any) -> Any:
    """Makes a value of the wanted type from text or from what TOML gave. Raises ValueError."""
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        inner = [argument for argument in typing.get_args(wanted) if argument is not type(None)]
        return None if value in (None, "") else convert(inner[0], value)
    if typing.get_origin(wanted) is tuple:
        return _strings(value)
    converters: dict[Any, Callable[[Any], Any]] = {
        bool: _boolean,
        int: _integer,
        float: _number,
        Path: _path,
        str: _string,
    }
    if wanted not in converters:
        raise TypeError(f"configuration fields cannot have the type {wanted}")
    return converters[wanted](value)


def _sources(
    cls: type[Any],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | str | None,
    faults: list[FieldViolation],
) -> list[tuple[str, dict[str, Any]]]:
    """(prefix for messages, raw values) from weak to strong."""
    names = [field.name for field in _fields(cls)]
    content = _content(cls, _read(Path(file)) if file is not None else {}, f"{file}: ", faults)
    from_file = {name: content[name] for name in names if name in content}
    variables = {name: _environment_name(cls, name) for name in names}
    from_environment = {name: environ[text] for name, text in variables.items() if text in environ}
    from_flags = {name: flags[name] for name in names if name in flags}
    return [(f"{file}: ", from_file), ("environment, ", from_environment), ("flag, ", from_flags)]


def _content(
    cls: type[Any], content: dict[str, Any], place: str, faults: list[FieldViolation]
) -> dict[str, Any]:
    """What a file says to this class; names in it that nobody knows are faults."""
    section, known = getattr(cls, "SECTION", ""), {field.name for field in _fields(cls)}
    own, shared = {name: value for name, value in content.items() if name not in SECTIONS}, {}
    if section:
        shared = {name: value for name, value in own.items() if name in cls.SHARED}
        own, known = content.get(section, {}), known - cls.SHARED
        if not isinstance(own, dict):
            faults.append(FieldViolation(f"{place}{section}", f"is no table; write [{section}]"))
            own = {}
        place += f"[{section}] "
    text = "no such setting; known are " + ", ".join(sorted(known))
    faults += [FieldViolation(f"{place}{name}", text) for name in sorted(own.keys() - known)]
    return {**shared, **{name: value for name, value in own.items() if name in known}}


def _environment_name(cls: type[Any], field_name: str) -> str:
    section = getattr(cls, "SECTION", "")
    return environment_name(
        f"{section}_{field_name}" if section and field_name not in cls.SHARED else field_name
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise InvalidArgument(
            f"configuration file {path}: {error.strerror}", reason="CONFIGURATION_INVALID"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(
            f"configuration file {path}: {error}", reason="CONFIGURATION_INVALID"
        ) from error


def _flag(field: dataclasses.Field[Any], wanted: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    help_text = f"{field.metadata.get('help', field.name)} [default: {_text(field.default) or 'none'}]"
    name = flag_name(field.name)
    if wanted is bool:
        return click.option(f"{name}/--no-{name[2:]}", field.name, default=None, help=help_text)
    metavar = field.metadata.get("metavar") or _metavar(wanted)
    return click.option(name, field.name, default=None, metavar=metavar, help=help_text)


def _metavar(wanted: Any) -> str:
    if typing.get_origin(wanted) is tuple:
        return "A,B"
    return {int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(wanted, "TEXT")


def _text(default: Any) -> str:
    if default is dataclasses.MISSING or default is None:
        return ""
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def _fields(cls: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _types(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in TRUE_WORDS or word in FALSE_WORDS:
        return word in TRUE_WORDS
    raise ValueError(f"{value!r} is not a boolean; write true or false")


def _integer(value: Any) -> int:
    if isinstance(value, bool | float):
        raise ValueError(f"{value!r} is not a whole number")
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a whole number") from None


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a number") from None
    if isinstance(value, bool) or number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text; put it in quotes")
    return value


def _path(value: Any) -> Path:
    return Path(value) if isinstance(value, Path) else Path(_string(value)).expanduser()


def _strings(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError(f"{value!r} is not a list; write A,B")
    return tuple(text for part in parts if (text := _string(part).strip()))
