"""Settings of the Hubble CLI: flags, HUBBLE_* variables, config.yaml, defaults; the first that is given wins.

The file and the variables are those of the stock CLI, so that what works with it works here. No server given
anywhere means our own context.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from axoneme.cli.hubble.durations import parse_seconds
from axoneme.lib.errors import InvalidArgument, NotFound

ENVIRONMENT_PREFIX: Final = "HUBBLE_"
FLAG, ENVIRONMENT, FILE, DEFAULT = "flag", "environment", "file", "default"
TRUE, FALSE = ("true", "1", "t", "yes", "on"), ("false", "0", "f", "no", "off", "")
Value = bool | str | int | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """One setting; kind is bool, text, list, duration or port."""

    name: str
    kind: str
    default: Value
    help: str


KEYS: Final[tuple[Key, ...]] = (
    Key("basic-auth-password", "text", "", "Password of basic authentication."),
    Key("basic-auth-username", "text", "", "User of basic authentication."),
    Key("config", "text", "", "This file."),
    Key("debug", "bool", False, "Report all states of nodes."),
    Key("kube-context", "text", "", "Unused: no Kubernetes API here."),
    Key("kube-namespace", "text", "kube-system", "Unused: no Kubernetes API here."),
    Key("kubeconfig", "text", "", "Unused: no Kubernetes API here."),
    Key("port-forward", "bool", False, "Refused: no Kubernetes API here."),
    Key("port-forward-port", "port", 4245, "Unused: no Kubernetes API here."),
    Key("request-timeout", "duration", "12s", "Deadline of calls that are no streams."),
    Key("server", "text", "", "host:port, tls://host:port or unix:///path; empty: our own context."),
    Key("timeout", "duration", "10s", "The same as request-timeout, which wins when both are given."),
    Key("tls", "bool", False, "Speak TLS to the server."),
    Key("tls-allow-insecure", "bool", False, "Do not verify the server's certificate."),
    Key("tls-ca-cert-files", "list", (), "CA certificates (PEM) instead of the system's."),
    Key("tls-client-cert-file", "text", "", "Own certificate (PEM)."),
    Key("tls-client-key-file", "text", "", "Key of the own certificate (PEM)."),
    Key("tls-server-name", "text", "", "Name that the server's certificate must carry."),
)
KEY_BY_NAME: Final = {key.name: key for key in KEYS}
FILTER_LISTS: Final = ("allowlist", "denylist")


@dataclass(frozen=True, slots=True)
class Settings:
    """Values of all keys, and where each one comes from."""

    values: Mapping[str, Value]
    sources: Mapping[str, str]
    file: Path | None = None
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Raw filters of environment and file, by list."""

    def text(self, name: str) -> str:
        """A text, empty when not given."""
        return str(self.values[name])

    def flag(self, name: str) -> bool:
        """A switch."""
        return bool(self.values[name])

    def texts(self, name: str) -> tuple[str, ...]:
        """A list."""
        value = self.values[name]
        return value if isinstance(value, tuple) else ()

    def seconds(self, name: str) -> float:
        """A duration in seconds."""
        return parse_seconds(self.text(name))

    def given(self, name: str) -> bool:
        """Whether anybody set it."""
        return self.sources[name] != DEFAULT


def variable(name: str) -> str:
    """HUBBLE_TLS_SERVER_NAME of tls-server-name."""
    return ENVIRONMENT_PREFIX + name.upper().replace("-", "_")


def load_settings(
    flags: Mapping[str, Any], environ: Mapping[str, str] | None = None, *, config: str | None = None
) -> Settings:
    """Merges all sources; flags that are None were not given. Raises InvalidArgument, NotFound."""
    environment = os.environ if environ is None else environ
    file = config_file(config, environment)
    content = read_file(file) if file is not None else {}
    values: dict[str, Value] = {}
    sources: dict[str, str] = {}
    for key in KEYS:
        raw, source = _first(key, flags, environment, content)
        place = f"--{key.name}" if source == FLAG else variable(key.name)
        values[key.name] = convert(key, raw, f"{file}: {key.name}" if source == FILE else place)
        sources[key.name] = source
    values["config"] = str(file) if file is not None else ""
    filters = {name: tuple(_filters(name, environment, content)) for name in FILTER_LISTS}
    return Settings(values, sources, file, filters)


def _first(
    key: Key, flags: Mapping[str, Any], environ: Mapping[str, str], content: Mapping[str, Any]
) -> tuple[Any, str]:
    name = key.name.replace("-", "_")
    if flags.get(name) not in (None, ()):
        return flags[name], FLAG
    if variable(key.name) in environ:
        return environ[variable(key.name)], ENVIRONMENT
    if content.get(key.name) is not None:
        return content[key.name], FILE
    return key.default, DEFAULT


def _filters(name: str, environ: Mapping[str, str], content: Mapping[str, Any]) -> Iterator[str]:
    if variable(name) in environ:
        yield environ[variable(name)]
        return
    found = content.get(name) or ()
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        if found:
            raise InvalidArgument(f"config file: {name} must be a list of texts")
        return
    yield from found


def convert(key: Key, raw: Any, place: str) -> Value:
    """A raw value as its kind. Raises InvalidArgument that names the place."""
    if key.kind == "bool":
        if isinstance(raw, bool):
            return raw
        if str(raw).lower() not in TRUE + FALSE:
            raise InvalidArgument(f"{place}: {raw!r} is not true or false")
        return str(raw).lower() in TRUE
    if key.kind == "list":
        parts = raw if isinstance(raw, list | tuple) else [raw]
        return tuple(one.strip() for part in parts for one in str(part).split(",") if one.strip())
    if key.kind == "port":
        if not str(raw).isdigit() or not 0 < int(raw) < 65_536:
            raise InvalidArgument(f"{place}: {raw!r} is not a port number")
        return int(raw)
    text = f"{raw:g}s" if isinstance(raw, int | float) and key.kind == "duration" else str(raw)
    if key.kind == "duration":
        try:
            parse_seconds(text)
        except InvalidArgument as error:
            raise InvalidArgument(f"{place}: {error.message}") from error
    return text


def config_file(given: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: the given one, $HUBBLE_CONFIG, else the default; with '' the old places."""
    chosen = given if given is not None else environ.get(variable("config"))
    if chosen:
        return Path(chosen).expanduser()
    home = Path(environ.get("HOME", "/"))
    if chosen == "":
        places = (Path("config.yaml"), home / ".hubble" / "config.yaml")
        return next((place for place in places if place.is_file()), None)
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "hubble" / "config.yaml"


def read_file(path: Path, *, required: bool = False) -> dict[str, Any]:
    """Its content; a file that is not there is empty unless it is required. Raises InvalidArgument."""
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        if required:
            raise NotFound(f"config file {path}: {error.strerror}") from error
        return {}
    except OSError as error:
        raise InvalidArgument(f"config file {path}: {error.strerror}") from error
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidArgument(f"config file {path} is not YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise InvalidArgument(f"config file {path}: is not a mapping of keys to values")
    return content or {}
