"""`axoneme config get|set|reset|view`: the settings that the commands of flows share with the Hubble CLI."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Final

import click

from axoneme.cli.hubble.settings import (
    KEY_BY_NAME,
    KEYS,
    Settings,
    Value,
    config_file,
    convert,
    load_settings,
)
from axoneme.lib.errors import InvalidArgument

EPILOG: Final = """\b
Examples:
  axoneme config view                                     all settings as they are in force
  axoneme config set server tls://relay.example.com:443
  axoneme config set tls-ca-cert-files ca.pem,other.pem
  axoneme config get server
  axoneme config reset server                             back to our own context"""
config_option = click.option(
    "--config",
    "config_path",
    default=None,
    metavar="FILE",
    help="File [$HUBBLE_CONFIG, ~/.config/hubble/config.yaml].",
)


def _epilog(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [key.name for key in KEYS if key.name.startswith(incomplete)]


@click.group("config", epilog=EPILOG)
def config() -> None:
    """Look at and change the settings of observe, list, watch and status --relay."""


@config.command(epilog=_epilog("axoneme config view", "axoneme config view --config other.yaml"))
@config_option
def view(config_path: str | None) -> None:
    """Print all settings as YAML: environment over file over defaults."""
    import yaml

    settings = load_settings({}, config=config_path)
    values = {key.name: _plain(settings.values[key.name]) for key in KEYS}
    click.echo(yaml.safe_dump(values, allow_unicode=False), nl=False)


@config.command(epilog=_epilog("axoneme config get server", "axoneme config get tls"))
@click.argument("key", shell_complete=_complete)
@config_option
def get(key: str, config_path: str | None) -> None:
    """Print one setting as it is in force."""
    from axoneme.cli.flowprinter_words import clean

    _known(key)
    settings: Settings = load_settings({}, config=config_path)
    click.echo(clean(_shown(settings.values[key])))


@config.command(
    "set", epilog=_epilog("axoneme config set tls true", "axoneme config set request-timeout 30s")
)
@click.argument("key", shell_complete=_complete)
@click.argument("value")
@config_option
def set_value(key: str, value: str, config_path: str | None) -> None:
    """Write one setting into the file."""
    file = _file(config_path)
    content = _content(file)
    content[key] = _plain(convert(_known(key), value, key))
    _write(file, content)


@config.command(epilog=_epilog("axoneme config reset server", "axoneme config reset"))
@click.argument("key", required=False, shell_complete=_complete)
@config_option
def reset(key: str | None, config_path: str | None) -> None:
    """Take one setting, or all that are known, out of the file."""
    names = [_known(key).name] if key else [one.name for one in KEYS]
    file = _file(config_path)
    content = _content(file)
    if content.keys() & set(names):
        _write(file, {name: value for name, value in content.items() if name not in names})


def _known(name: str) -> Any:
    if name not in KEY_BY_NAME:
        raise InvalidArgument(f"unknown key {name!r}; known: {', '.join(KEY_BY_NAME)}")
    return KEY_BY_NAME[name]


def _file(given: str | None) -> Path:
    file = config_file(given, os.environ)
    if file is None:
        raise InvalidArgument("there is no config file in the old places; name one with --config")
    return file


def _content(file: Path) -> dict[str, Any]:
    from axoneme.cli.hubble.settings import read_file

    return read_file(file)


def _write(file: Path, content: dict[str, Any]) -> None:
    """Replace the file at once; only its owner may read it, for it may hold a password."""
    import yaml

    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w") as stream:
            yaml.safe_dump(content, stream)
        Path(name).replace(file.resolve() if file.is_symlink() else file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _plain(value: Value) -> bool | str | int | list[str]:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple) else str(value)
