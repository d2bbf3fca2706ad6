#!/usr/bin/python3 -IS
"""`axoneme-cni`: between a container runtime and the shim of its node.

A runtime starts it for each interface, with its wishes in the environment and on standard input. It checks
them, sends one JSON request over the node's root-only `cni.sock` and prints the result, or an error in CNI's
form. What happens to endpoints is decided in the shim (`shim/cnicommands.py`); docs/cni.md has the schema.

Standard library only and nothing of this project, so that it starts in a few milliseconds and runs as one
copied file. It takes the C halves of json and socket: what is around them (regular expressions, enums,
selectors) takes longer to import than everything that happens here, and none of it is used.
"""

from __future__ import annotations

import _json
import _socket
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, TextIO

SUPPORTED_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
FIRST_VERSION_OF = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
    "VERSION": (),
}

# Codes of the CNI specification; those from 100 on are ours.
INCOMPATIBLE_VERSION, UNKNOWN_CONTAINER, INVALID_ENVIRONMENT, IO_FAILURE = 1, 3, 4, 5
DECODE_FAILURE, INVALID_CONFIG, TRY_AGAIN_LATER, NOT_AVAILABLE = 6, 7, 11, 50
REFUSED, CHECK_FAILED = 100, 103

GATEWAYS = {4: ("169.254.1.1", "0.0.0.0/0", 32), 6: ("fe80::1", "::/0", 128)}
RUN_DIRECTORY, STATE_DIRECTORY, TIMEOUT_SECONDS = "/run/axoneme", "/var/lib/axoneme", 60.0
LABELS = "axoneme.io/labels"
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
PROTOCOL_VERSION = 1
MAX_ANSWER_BYTES = 1 << 20
ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


class CniError(Exception):
    """What the runtime is told: one of the codes above, a sentence, and more of it."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


def main() -> int:
    """Entry point; returns the exit code."""
    return run(os.environ, sys.stdin, sys.stdout)


def run(environment: Mapping[str, str], source: TextIO, output: TextIO) -> int:
    """Does what the environment asks for; prints one JSON object or nothing."""
    config: dict[str, Any] = {}
    try:
        config = read_config(source)
        answer = perform(environment, config)
    except CniError as error:
        version = config.get("cniVersion")
        answer = {
            "cniVersion": version if version in SUPPORTED_VERSIONS else SUPPORTED_VERSIONS[-1],
            "code": error.code,
            "msg": error.message,
        }
        if error.details:
            answer["details"] = error.details
        print(encode(answer), file=output)
        return 1
    if answer is not None:
        print(encode(answer), file=output)
    return 0


def read_config(source: TextIO) -> dict[str, Any]:
    """The configuration on standard input. Raises CniError."""
    try:
        config = decode(source.read())
    except (ValueError, RecursionError) as error:
        raise CniError(DECODE_FAILURE, "the network configuration is not JSON", str(error)) from error
    if not isinstance(config, dict):
        raise CniError(DECODE_FAILURE, "the network configuration is not a JSON object")
    return config


def perform(environment: Mapping[str, str], config: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a command; None where CNI wants no output. Raises CniError."""
    command = environment.get("CNI_COMMAND", "")
    if command not in NEEDED:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_COMMAND {command!r} is not one of {', '.join(NEEDED)}")
    if command == "VERSION":
        version = config.get("cniVersion", SUPPORTED_VERSIONS[-1])
        return {"cniVersion": version, "supportedVersions": list(SUPPORTED_VERSIONS)}
    check_version(command, config)
    check_config(config)
    place = attachment(command, environment, config)
    if command == "ADD":
        return add(place, environment, config)
    if command == "DEL":
        delete(place, config)
    elif command == "CHECK":
        check(place, config)
    elif command == "GC":
        ask(config, {"command": "GC", **place, "attachments": valid_attachments(config)})
    else:
        status(config)
    return None


# --- what the runtime says


def check_version(command: str, config: dict[str, Any]) -> None:
    """Raises CniError unless the configuration's version is known and has the command."""
    version = config.get("cniVersion", "0.1.0")
    if version not in SUPPORTED_VERSIONS:
        known = ", ".join(SUPPORTED_VERSIONS)
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion {version!r} is not one of {known}")
    if version < FIRST_VERSION_OF.get(command, ""):
        first = FIRST_VERSION_OF[command]
        raise CniError(INCOMPATIBLE_VERSION, f"{command} needs cniVersion {first}, not {version}")


def check_config(config: dict[str, Any]) -> None:
    """Refuses what would otherwise be left undone silently. Raises CniError."""
    if not named(str(config.get("name", ""))):
        raise CniError(INVALID_CONFIG, "name is missing, or not letters, digits, '_', '.' and '-'")
    ipam = config.get("ipam") or {}
    if not isinstance(ipam, dict) or ipam.get("type", "axoneme") != "axoneme":
        raise CniError(
            INVALID_CONFIG, "addresses come from the node's PodCIDRs; take `ipam` out of the configuration"
        )
    runtime = runtime_config(config)
    for capability in ("bandwidth", "mac", "infinibandGUID"):
        if runtime.get(capability):
            raise CniError(
                INVALID_CONFIG, f"capability {capability} is not supported; take it out of `capabilities`"
            )


def attachment(command: str, environment: Mapping[str, str], config: dict[str, Any]) -> dict[str, Any]:
    """Which interface of which container in which network is meant. Raises CniError."""
    place = {"network": config["name"]}
    fields = {"CNI_CONTAINERID": "container", "CNI_NETNS": "netns", "CNI_IFNAME": "interface"}
    for variable, name in fields.items():
        value = environment.get(variable, "")
        if not value and variable in NEEDED[command]:
            raise CniError(INVALID_ENVIRONMENT, f"{variable} is not set; {command} needs it")
        if NEEDED[command]:
            place[name] = value
    if NEEDED[command]:
        check_names(place["container"], place["interface"])
    return place


def check_names(container: str, interface: str) -> None:
    """Raises CniError unless both names are ones that CNI and the kernel take."""
    if not named(container):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_CONTAINERID {container[:64]!r} is not a container id")
    wrong = any(letter in "/:" or letter.isspace() for letter in interface)
    if wrong or len(interface) > 15 or interface in (".", ".."):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME {interface[:64]!r} is not an interface name")


def named(text: str) -> bool:
    """Whether a text is a name as CNI defines them for networks and containers."""
    return bool(text) and text[0] in ALPHANUMERIC and set(text) <= ALPHANUMERIC | set("_.-")


def arguments(environment: Mapping[str, str]) -> dict[str, str]:
    """CNI_ARGS. Raises CniError."""
    found = {}
    for pair in filter(None, environment.get("CNI_ARGS", "").split(";")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: {pair[:64]!r} is not KEY=VALUE")
        found[key] = value
    return found


def runtime_config(config: dict[str, Any]) -> dict[str, Any]:
    """What the runtime adds for capabilities. Raises CniError."""
    runtime = config.get("runtimeConfig") or {}
    if not isinstance(runtime, dict):
        raise CniError(INVALID_CONFIG, "runtimeConfig is not an object")
    return runtime


def labels_of(arguments: Mapping[str, str], config: dict[str, Any]) -> list[str]:
    """Labels as KEY=VALUE; a later source replaces the value of an earlier one. Raises CniError."""
    runtime = runtime_config(config)
    annotations = runtime.get(ANNOTATIONS) or {}
    found: dict[str, str] = {}
    for source in (
        config.get("labels"),
        annotations.get(LABELS) if isinstance(annotations, dict) else None,
        arguments.get("AXONEME_LABELS"),
        runtime.get("labels"),
        runtime.get(LABELS),
    ):
        found.update(labels_in(source))
    return [f"{key}={value}" for key, value in found.items()]


def labels_in(source: Any) -> dict[str, str]:
    """Labels of an object, a list of KEY=VALUE or a text of them with commas. Raises CniError."""
    if isinstance(source, dict) and all(isinstance(value, str) for value in source.values()):
        return source
    texts = source.split(",") if isinstance(source, str) else source or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise CniError(INVALID_CONFIG, 'labels must be an object, or KEY=VALUE texts: {"app": "web"}')
    pairs = (text.strip().partition("=") for text in texts if text.strip())
    return {key: value for key, _, value in pairs}


def wanted_ips(arguments: Mapping[str, str], config: dict[str, Any]) -> list[str]:
    """Addresses that the runtime asks for, without their prefix lengths. Raises CniError."""
    cni = (config.get("args") or {}).get("cni") or {}
    found = runtime_config(config).get("ips") or cni.get("ips") or arguments.get("IP", "").split(",")
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise CniError(INVALID_CONFIG, "ips is not a list of addresses")
    return [one.partition("/")[0] for one in found if one]


def valid_attachments(config: dict[str, Any]) -> list[dict[str, str]]:
    """The attachments that GC must leave alone. Raises CniError."""
    try:
        valid = config["cni.dev/valid-attachments"]
        return [{"container": one["containerID"], "interface": one["ifname"]} for one in valid]
    except (TypeError, KeyError) as error:
        raise CniError(
            INVALID_CONFIG, "cni.dev/valid-attachments is missing, or not a list of containerID and ifname"
        ) from error


# --- commands


def add(place: dict[str, Any], environment: Mapping[str, str], config: dict[str, Any]) -> dict[str, Any]:
    """Makes the endpoint, or puts one upon the interface that an earlier plugin made."""
    args = arguments(environment)
    pod_name = args.get("K8S_POD_NAME", "")
    request = {
        "command": "ADD",
        **place,
        "namespace": args.get("K8S_POD_NAMESPACE") or config.get("namespace") or "default",
        "pod_name": pod_name,
        "labels": labels_of(args, config),
        "port_mappings": runtime_config(config).get("portMappings") or [],
    }
    previous = config.get("prevResult")
    if previous is not None:
        ask(config, {**request, "adopt": True, "ips": ips_of(previous, place["interface"])})
        return {**previous, "cniVersion": config["cniVersion"]}
    answer = ask(config, {**request, "adopt": False, "ips": wanted_ips(args, config)})
    return result(answer, place, config)


def ips_of(previous: Any, interface: str) -> list[str]:
    """Addresses of the container's interface in a result. Raises CniError."""
    try:
        interfaces = previous.get("interfaces") or []
        own = [i for i, one in enumerate(interfaces) if one.get("sandbox") and one["name"] == interface]
        if len(own) != 1:
            raise CniError(INVALID_CONFIG, f"prevResult names no interface {interface} of the container")
        mine = [one for one in previous.get("ips") or [] if one.get("interface", own[0]) == own[0]]
        return [one["address"].partition("/")[0] for one in mine]
    except (AttributeError, KeyError, TypeError) as error:
        raise CniError(INVALID_CONFIG, "prevResult is not a result of CNI", repr(error)) from error


def result(endpoint: dict[str, Any], place: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """An endpoint in the form of the configuration's version."""
    version = config["cniVersion"]
    ips, routes = [], []
    for address in endpoint["ips"]:
        family = 6 if ":" in address else 4
        gateway, anywhere, length = GATEWAYS[family]
        entry = {"address": f"{address}/{length}", "gateway": gateway, "interface": 1}
        ips.append({"version": str(family), **entry} if version < "1.0.0" else entry)
        routes.append({"dst": anywhere, "gw": gateway})
    return {
        "cniVersion": version,
        "interfaces": [
            {"name": endpoint["interface_name"], "mac": endpoint["host_mac"]},
            {"name": place["interface"], "mac": endpoint["mac"], "sandbox": place["netns"]},
        ],
        "ips": ips,
        "routes": routes,
        "dns": config.get("dns") or {},
    }


def delete(place: dict[str, Any], config: dict[str, Any]) -> None:
    """Removes the endpoint; while the shim is away it is left a note, which it works off when it is back."""
    request = {"command": "DEL", **place}
    try:
        ask(config, request)
    except CniError as error:
        if error.code != TRY_AGAIN_LATER:
            raise
        leave_note(request, config.get("stateDirectory") or STATE_DIRECTORY)


def leave_note(request: dict[str, Any], state_directory: str) -> None:
    """Writes a removal down for the shim, so that it survives a power cut. Raises CniError."""
    folder = os.path.join(state_directory, "cni")  # noqa: PTH118 - pathlib takes longer than the rest
    path = os.path.join(folder, f"{request['interface']}@{request['container']}")  # noqa: PTH118
    draft = os.path.join(folder, f"draft-{os.getpid()}")  # noqa: PTH118
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(encode(request))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)  # noqa: PTH105
    except OSError as error:
        raise CniError(IO_FAILURE, "the shim is away, and its note cannot be written", str(error)) from error


def check(place: dict[str, Any], config: dict[str, Any]) -> None:
    """Asks the shim for its side and looks at the container's side. Raises CniError."""
    endpoint = ask(config, {"command": "CHECK", **place})
    reported = ips_of(config.get("prevResult") or {}, place["interface"])
    if missing := sorted(set(endpoint["ips"]) - {canonical(text) for text in reported}):
        raise CniError(CHECK_FAILED, f"prevResult lacks {', '.join(missing)}, which the endpoint has")
    present = addresses_inside(place["netns"], place["interface"])
    if missing := sorted(set(endpoint["ips"]) - present):
        raise CniError(CHECK_FAILED, f"{place['interface']} has lost {', '.join(missing)} in the container")


def status(config: dict[str, Any]) -> None:
    """Raises CniError 50 while no interface could be added."""
    try:
        ask(config, {"command": "STATUS", "network": config["name"]})
    except CniError as error:
        code = NOT_AVAILABLE if error.code == TRY_AGAIN_LATER else error.code
        raise CniError(code, error.message, error.details) from error


# --- the shim


def ask(config: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """One request to the shim and its answer. Raises CniError, `TRY_AGAIN_LATER` when it is away."""
    path = f"{config.get('runDirectory') or RUN_DIRECTORY}/cni.sock"
    body = encode({"version": PROTOCOL_VERSION, **request}).encode()
    try:
        raw = exchange(path, body, float(config.get("timeoutSeconds") or TIMEOUT_SECONDS))
    except OSError as error:
        message = f"the shim does not answer at {path}; is `axoneme node serve` running?"
        raise CniError(TRY_AGAIN_LATER, message, str(error)) from error
    try:
        answer = decode(raw.decode())
        if answer["ok"]:
            found: dict[str, Any] = answer["endpoint"]
            return found
        fault = CniError(answer["code"], answer["message"], answer.get("details", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise CniError(IO_FAILURE, "the shim's answer is not understood", repr(error)) from error
    raise fault


def exchange(path: str, body: bytes, seconds: float) -> bytes:
    """One frame to the socket at a path, one back. Raises OSError."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.sendall(len(body).to_bytes(4, "big") + body)
        return receive(connection)
    finally:
        connection.close()


def receive(connection: _socket.socket) -> bytes:
    """The one frame of an answer. Raises OSError when the other side ends early."""
    frame = b""
    while len(frame) < 4 or len(frame) < 4 + int.from_bytes(frame[:4], "big"):
        more = connection.recv(65_536)
        if not more or len(frame) > MAX_ANSWER_BYTES:
            raise ConnectionResetError("the answer is not whole")
        frame += more
    return frame[4:]


# --- JSON


class _Numbers:
    """How the scanner is to read what is not text, as in json's own decoder."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def decode(text: str) -> Any:
    """The value of a JSON text. Raises ValueError."""
    plain = text.strip()
    rules: Any = _Numbers
    try:
        value, end = _json.make_scanner(rules)(plain, 0)
    except StopIteration as error:
        raise ValueError(f"no value at character {error.value}") from error
    if end != len(plain):
        raise ValueError(f"more than one value, the second at character {end}")
    return value


def encode(value: Any) -> str:
    """The JSON text of objects, lists, texts, numbers, truths and None."""
    if isinstance(value, str):
        return _json.encode_basestring_ascii(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{encode(str(key))}: {encode(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(encode, value)) + "]"
    for word, constant in (("true", True), ("false", False), ("null", None)):
        if value is constant:  # 1 equals True, too
            return word
    return repr(value)


# --- the container's side, for CHECK


def canonical(text: str) -> str:
    """An address in the kernel's text."""
    family = _socket.AF_INET6 if ":" in text else _socket.AF_INET
    return _socket.inet_ntop(family, _socket.inet_pton(family, text))


def addresses_inside(netns: str, interface: str) -> set[str]:
    """Addresses of an interface that is up in a namespace, which this process enters. Raises CniError."""
    import ctypes

    try:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x4000_0000) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return set(addresses(_socket.if_nametoindex(interface)))
    except OSError as error:
        raise CniError(CHECK_FAILED, f"{interface} is not there in {netns}", str(error)) from error


def addresses(ifindex: int) -> Iterable[str]:
    """Addresses of an interface of this process's namespace, by a dump of rtnetlink. Raises OSError."""
    import socket
    import struct

    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        # RTM_GETADDR with NLM_F_REQUEST and NLM_F_DUMP, for every family.
        netlink.send(struct.pack("=IHHII", 24, 22, 0x301, 1, 0) + bytes(8))
        while True:
            packet = netlink.recv(65_536)
            while packet:
                length, kind = struct.unpack_from("=IH", packet)
                if kind in (2, 3):  # NLMSG_ERROR, NLMSG_DONE
                    return
                family, _, _, _, index = struct.unpack_from("=BBBBI", packet, 16)
                if index == ifindex:
                    yield from attributes(packet[24:length], family)
                packet = packet[(length + 3) & ~3 :]


def attributes(raw: bytes, family: int) -> Iterable[str]:
    """The address of an answer: IFA_LOCAL where the family has it, else IFA_ADDRESS."""
    import struct

    found = {}
    while raw:
        length, kind = struct.unpack_from("=HH", raw)
        found[kind] = raw[4:length]
        raw = raw[(length + 3) & ~3 :]
    yield _socket.inet_ntop(family, found.get(2, found[1]))


if __name__ == "__main__":
    sys.exit(main())
