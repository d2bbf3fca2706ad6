"""What the CNI plugin refuses, asks for and prints, without a shim: words, codes, forms of versions."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import cni

PLUGIN = Path(cni.__file__)
PLACE = {
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG = {"cniVersion": "1.0.0", "name": "pods", "type": "axoneme-cni"}
ANSWER = {
    "endpoint_id": 7,
    "interface_name": "axo7",
    "mac": "0a:00:00:00:00:01",
    "host_mac": "0a:00:00:00:00:02",
    "ips": ["10.1.0.5", "fd00:10:1::5"],
}
PREVIOUS = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "cni0", "mac": "0a:00:00:00:00:03"},
        {"name": "veth1", "mac": "0a:00:00:00:00:02"},
        {"name": "eth0", "mac": "0a:00:00:00:00:01", "sandbox": "/run/netns/x"},
    ],
    "ips": [
        {"address": "10.9.0.5/24", "gateway": "10.9.0.1", "interface": 2},
        {"address": "fd00:9::5/64", "gateway": "fd00:9::1", "interface": 2},
        {"address": "10.8.0.1/24", "interface": 0},
    ],
    "dns": {},
}


def run(command: str, config: Any = None, **environment: str) -> tuple[int, Any]:
    """Exit code and what was printed."""
    output = io.StringIO()
    raw = config if isinstance(config, str) else json.dumps(CONFIG if config is None else config)
    code = cni.run({"CNI_COMMAND": command, **PLACE, **environment}, io.StringIO(raw), output)
    return code, json.loads(output.getvalue() or "null")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Requests that the plugin would have sent, each answered with an endpoint."""
    requests: list[dict[str, Any]] = []

    def answer(config: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        requests.append(request)
        return dict(ANSWER)

    monkeypatch.setattr(cni, "ask", answer)
    return requests


def test_version_needs_nothing_but_an_object() -> None:
    code, answer = run("VERSION", {"cniVersion": "0.4.0"})
    assert (code, answer["cniVersion"]) == (0, "0.4.0")
    assert answer["supportedVersions"] == ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]


@pytest.mark.parametrize(
    ("command", "config", "environment", "error", "words"),
    [
        ("ADD", "{", {}, 6, "not JSON"),
        ("ADD", "[1]", {}, 6, "not a JSON object"),
        ("JOIN", None, {}, 4, "CNI_COMMAND 'JOIN'"),
        ("ADD", {**CONFIG, "cniVersion": "0.2.0"}, {}, 1, "'0.2.0' is not one of"),
        ("ADD", {"name": "pods"}, {}, 1, "'0.1.0'"),
        ("CHECK", {**CONFIG, "cniVersion": "0.3.1"}, {}, 1, "CHECK needs cniVersion 0.4.0"),
        ("GC", CONFIG, {}, 1, "GC needs cniVersion 1.1.0"),
        ("STATUS", CONFIG, {}, 1, "STATUS needs cniVersion 1.1.0"),
        ("ADD", {**CONFIG, "name": "a b"}, {}, 7, "name is missing"),
        ("ADD", {**CONFIG, "ipam": {"type": "host-local"}}, {}, 7, "take `ipam` out"),
        ("ADD", {**CONFIG, "runtimeConfig": {"bandwidth": {"ingressRate": 1}}}, {}, 7, "bandwidth"),
        ("ADD", {**CONFIG, "runtimeConfig": {"mac": "0a:00:00:00:00:09"}}, {}, 7, "capability mac"),
        ("ADD", {**CONFIG, "runtimeConfig": ["x"]}, {}, 7, "runtimeConfig"),
        ("ADD", {**CONFIG, "runtimeConfig": {"ips": "10.1.0.1"}}, {}, 7, "ips is not a list"),
        ("ADD", {**CONFIG, "labels": 7}, {}, 7, "labels must be"),
        ("ADD", None, {"CNI_NETNS": ""}, 4, "CNI_NETNS is not set"),
        ("DEL", None, {"CNI_CONTAINERID": ""}, 4, "CNI_CONTAINERID is not set"),
        ("DEL", None, {"CNI_CONTAINERID": "../x"}, 4, "not a container id"),
        ("ADD", None, {"CNI_IFNAME": "a/b"}, 4, "not an interface name"),
        ("ADD", None, {"CNI_IFNAME": "an-interface-name"}, 4, "not an interface name"),
        ("ADD", None, {"CNI_ARGS": "K8S_POD_NAME"}, 4, "is not KEY=VALUE"),
        ("ADD", {**CONFIG, "prevResult": {"interfaces": []}}, {}, 7, "names no interface eth0"),
        ("ADD", {**CONFIG, "prevResult": 5}, {}, 7, "not a result of CNI"),
        ("GC", {**CONFIG, "cniVersion": "1.1.0"}, {}, 7, "valid-attachments is missing"),
    ],
)
def test_faults_are_named_with_their_code(
    command: str,
    config: Any,
    environment: dict[str, str],
    error: int,
    words: str,
    asked: list[dict[str, Any]],
) -> None:
    code, answer = run(command, config, **environment)
    assert code == 1
    assert answer["code"] == error
    assert words in answer["msg"]
    assert answer["cniVersion"] in cni.SUPPORTED_VERSIONS
    assert asked == []


@pytest.mark.parametrize("version", cni.SUPPORTED_VERSIONS)
def test_a_result_has_the_form_of_its_version(version: str, asked: list[dict[str, Any]]) -> None:
    dns = {"nameservers": ["10.96.0.10"]}
    code, answer = run("ADD", {**CONFIG, "cniVersion": version, "dns": dns})
    assert (code, answer["cniVersion"], answer["dns"]) == (0, version, dns)
    host, pod = answer["interfaces"]
    assert host == {"name": "axo7", "mac": "0a:00:00:00:00:02"}
    assert pod == {"name": "eth0", "mac": "0a:00:00:00:00:01", "sandbox": "/run/netns/x"}
    v4, v6 = answer["ips"]
    assert (v4["address"], v4["gateway"], v4["interface"]) == ("10.1.0.5/32", "169.254.1.1", 1)
    assert (v6["address"], v6["gateway"], v6["interface"]) == ("fd00:10:1::5/128", "fe80::1", 1)
    assert [one.get("version") for one in (v4, v6)] == (["4", "6"] if version < "1.0.0" else [None, None])
    assert [route["dst"] for route in answer["routes"]] == ["0.0.0.0/0", "::/0"]


def test_what_a_runtime_says_becomes_one_request(asked: list[dict[str, Any]]) -> None:
    config = {
        **CONFIG,
        "labels": {"app": "web", "tier": "config"},
        "runtimeConfig": {
            "ips": ["10.1.0.9/24", "fd00:10:1::9/64"],
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
            "io.kubernetes.cri.pod-annotations": {"axoneme.io/labels": "tier=annotation, zone=a"},
            "axoneme.io/labels": {"zone": "b"},
        },
    }
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u;AXONEME_LABELS=role=db"
    assert run("ADD", config, CNI_ARGS=args)[0] == 0
    assert asked == [
        {
            "command": "ADD",
            "network": "pods",
            "container": "c1",
            "netns": "/run/netns/x",
            "interface": "eth0",
            "namespace": "shop",
            "pod_name": "web-0",
            "labels": ["app=web", "tier=annotation", "zone=b", "role=db"],
            "port_mappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
            "adopt": False,
            "ips": ["10.1.0.9", "fd00:10:1::9"],
        }
    ]


@pytest.mark.parametrize(
    ("config", "environment"),
    [
        ({"args": {"cni": {"ips": ["10.1.0.9/24", "fd00:10:1::9"]}}}, {}),
        ({}, {"CNI_ARGS": "IP=10.1.0.9,fd00:10:1::9"}),
    ],
)
def test_older_ways_to_ask_for_addresses(
    config: dict[str, Any], environment: dict[str, str], asked: list[dict[str, Any]]
) -> None:
    assert run("ADD", {**CONFIG, **config}, **environment)[0] == 0
    assert asked[0]["ips"] == ["10.1.0.9", "fd00:10:1::9"]
    assert (asked[0]["namespace"], asked[0]["pod_name"]) == ("default", "")


def test_an_interface_of_an_earlier_plugin_is_adopted_and_its_result_handed_on(
    asked: list[dict[str, Any]],
) -> None:
    code, answer = run("ADD", {**CONFIG, "prevResult": PREVIOUS})
    assert (code, answer) == (0, PREVIOUS)
    assert asked[0]["adopt"] is True
    assert asked[0]["ips"] == ["10.9.0.5", "fd00:9::5"]


def test_check_compares_shim_runtime_and_container(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = {
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/x"}],
        "ips": [
            {"address": "10.1.0.5/32", "interface": 0},
            {"address": "fd00:10:1:0::5/128", "interface": 0},
        ],
    }
    inside = {"10.1.0.5", "fd00:10:1::5", "fe80::9"}
    monkeypatch.setattr(cni, "addresses_inside", lambda netns, interface: inside)
    assert run("CHECK", {**CONFIG, "prevResult": previous}) == (0, None)
    inside.remove("fd00:10:1::5")
    code, answer = run("CHECK", {**CONFIG, "prevResult": previous})
    assert (code, answer["code"]) == (1, 103)
    assert "eth0 has lost fd00:10:1::5" in answer["msg"]
    previous["ips"].pop(0)
    assert "prevResult lacks 10.1.0.5" in run("CHECK", {**CONFIG, "prevResult": previous})[1]["msg"]


def test_gc_names_what_stays(asked: list[dict[str, Any]]) -> None:
    valid = [{"containerID": "c1", "ifname": "eth0"}]
    assert run("GC", {**CONFIG, "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}) == (0, None)
    assert asked == [
        {"command": "GC", "network": "pods", "attachments": [{"container": "c1", "interface": "eth0"}]}
    ]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(_VALUES)
def test_the_plugins_json_is_json(value: Any) -> None:
    for text in (cni.encode(value), json.dumps(value), json.dumps(value, indent=2, ensure_ascii=False)):
        assert json.dumps(cni.decode(text)) == json.dumps(json.loads(text)) == json.dumps(value)


@pytest.mark.parametrize("text", ["", "{", "{} x", "[1,]", "nope", '"', "{1: 2}", "[" * 100_000])
def test_what_is_no_json_is_refused(text: str) -> None:
    code, answer = run("ADD", text)
    assert (code, answer["code"]) == (1, 6)


def test_without_a_shim(tmp_path: Path) -> None:
    config = {
        **CONFIG,
        "cniVersion": "1.1.0",
        "runDirectory": str(tmp_path),
        "stateDirectory": str(tmp_path / "s"),
    }
    code, answer = run("ADD", config)
    assert (code, answer["code"]) == (1, 11)
    assert "axoneme node serve" in answer["msg"]
    assert run("STATUS", config)[1]["code"] == 50
    assert run("DEL", config, CNI_NETNS="") == (0, None)
    assert run("DEL", config, CNI_NETNS="") == (0, None)
    [note] = (tmp_path / "s" / "cni").iterdir()
    assert note.name == "eth0@c1"
    assert json.loads(note.read_text())["container"] == "c1"
    (tmp_path / "s" / "file").write_text("")
    blocked = {**config, "stateDirectory": str(tmp_path / "s" / "file")}
    assert run("DEL", blocked)[1]["code"] == 5


def test_only_the_standard_library_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-IS", "-X", "importtime", str(PLUGIN)],
        input='{"cniVersion": "1.0.0"}',
        env={"CNI_COMMAND": "VERSION"},
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()[1:]}
    roots = {name.partition(".")[0] for name in names}
    assert roots <= sys.stdlib_module_names
    assert roots.isdisjoint({"json", "re", "socket", "enum", "typing", "asyncio", "dataclasses", "ctypes"})
    assert "supportedVersions" in done.stdout
