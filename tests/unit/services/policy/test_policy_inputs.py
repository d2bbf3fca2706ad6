"""Records that policies refer to: services, addresses with named ports, nodes. None of them is trusted."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Row
from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from services.policy.inputs import Service
from services.policy.records.addresses import AddressRecord, address_of, decode_address
from services.policy.records.malformed import MalformedRecordError
from services.policy.records.noderecords import decode_node, node_addresses, node_name
from services.policy.records.services import decode_service, service_name


def row(key: str, value: Any) -> Row:
    """A row with a JSON value, or with the bytes as they are."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Row(key, raw, mod_revision=1)


SERVICE_KEY = f"{layout.SERVICES}shop/web"


@pytest.mark.parametrize(
    ("value", "service"),
    [
        ({}, Service(namespace="shop", name="web")),
        (
            {"labels": {"a": "b"}, "selector": {"app": "web"}, "backends": []},
            Service(namespace="shop", name="web", labels={"a": "b"}, selector={"app": "web"}),
        ),
        (
            {"selector": None, "backends": ["10.0.0.2", "10.0.0.1", "10.0.0.2"], "ports": [{"port": 80}]},
            Service(namespace="shop", name="web", backends=("10.0.0.1", "10.0.0.2")),
        ),
        (
            {"labels": None, "backends": ["2001:DB8:0::2", "2001:db8::2"]},
            Service(namespace="shop", name="web", backends=("2001:db8::2",)),
        ),
        # An empty selector selects no pods at all, not all of them.
        ({"selector": {}}, Service(namespace="shop", name="web", selector=None)),
    ],
)
def test_services(value: dict[str, Any], service: Service) -> None:
    """What policy needs of it, in canonical form; the rest belongs to others."""
    assert decode_service(row(SERVICE_KEY, value)) == service


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        {"labels": []},
        {"labels": {"a": 1}},
        {"selector": {"a": None}},
        {"selector": "a=b"},
        {"backends": ["web"]},
        {"backends": ["10.0.0.0/8"]},
        {"backends": ["2001:db8::/64"]},
        {"backends": [1]},
        {"backends": {}},
    ],
)
def test_malformed_services(value: Any) -> None:
    """Named, never guessed at: a service that is half read could select too much."""
    with pytest.raises(MalformedRecordError):
        decode_service(row(SERVICE_KEY, value))


@pytest.mark.parametrize(
    "key",
    [
        f"{layout.SERVICES}web",
        f"{layout.SERVICES}shop/web/x",
        f"{layout.SERVICES}/web",
        f"{layout.SERVICES}shop/",
        f"{layout.SERVICES}Shop/web",
        "axoneme/state/services/v2/shop/web",
        "",
    ],
)
def test_keys_of_no_service(key: str) -> None:
    """A foreign key is not an error."""
    assert service_name(key) is None
    assert decode_service(row(key, {})) is None


def address(ip: str, **more: Any) -> dict[str, Any]:
    """The value of an address as Cilium writes it."""
    return {"IP": ip, "Mask": None, "HostIP": "192.0.2.1", "ID": 1234, "Key": 0, "Metadata": ""} | more


@pytest.mark.parametrize("ip", ["10.0.1.7", "2001:db8::7"])
def test_a_pod_with_named_ports(ip: str) -> None:
    """Identity, pod, and the port of each name and protocol; names in lower case, as policies have them."""
    ports = [
        {"Name": "web", "Port": 8080, "Protocol": "TCP"},
        {"Name": "DNS", "Port": 53, "Protocol": "UDP"},
        {"Name": "dns", "Port": 5353, "Protocol": "TCP"},
    ]
    value = address(ip, K8sNamespace="shop", K8sPodName="web-0", NamedPorts=ports, Fresh=True)
    assert decode_address(row(layout.ip_key(ip), value)) == AddressRecord(
        address=ip,
        identity=1234,
        namespace="shop",
        pod="web-0",
        named_ports={(6, "web"): 8080, (17, "dns"): 53, (6, "dns"): 5353},
    )


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        (None, {}),
        ([], {}),
        # A name with two ports is none, one with the same port twice is fine.
        ([("a", 1, "TCP"), ("a", 2, "TCP"), ("b", 3, "TCP")], {(6, "b"): 3}),
        ([("a", 1, "TCP"), ("A", 1, "TCP")], {(6, "a"): 1}),
        ([("a", 1, "TCP"), ("a", 2, "UDP")], {(6, "a"): 1, (17, "a"): 2}),
        (
            [("a", 0, "TCP"), ("b", 65536, "TCP"), ("", 1, "TCP"), ("c", 1, "ICMP"), ("d", 4, "sctp")],
            {(132, "d"): 4},
        ),
    ],
)
def test_named_ports(ports: list[tuple[str, int, str]] | None, expected: dict[tuple[int, str], int]) -> None:
    """Only what is unambiguous and in range counts."""
    keys = ("Name", "Port", "Protocol")
    written = None if ports is None else [dict(zip(keys, port, strict=True)) for port in ports]
    record = decode_address(row(layout.ip_key("10.0.1.7"), address("10.0.1.7", NamedPorts=written)))
    assert record is not None
    assert record.named_ports == expected


@pytest.mark.parametrize(
    ("key", "ip", "mask"),
    [("10.0.1.0/24", "10.0.1.0", "////AA=="), ("2001:db8::/64", "2001:db8::", "//////////8AAAAAAAAAAA==")],
)
def test_prefixes(key: str, ip: str, mask: str) -> None:
    """Rows of prefixes have identities too, and no pod."""
    record = decode_address(row(layout.ip_key(key), address(ip, Mask=mask)))
    assert record == AddressRecord(address=key, identity=1234, namespace="", pod="", named_ports={})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("10.0.1.7", b""),
        ("10.0.1.7", b"{}"),
        ("10.0.1.7", b"[]"),
        ("10.0.1.7", address("10.0.1.8")),
        ("10.0.1.7", address("2001:db8::7")),
        ("2001:db8::7", address("2001:db8::8")),
        ("10.0.1.7", address("x")),
        ("10.0.1.7", address("10.0.1.7", ID=0)),
        ("10.0.1.7", address("10.0.1.7", ID=-1)),
        ("10.0.1.7", address("10.0.1.7", ID=2**32)),
        ("10.0.1.7", address("10.0.1.7", ID="1")),
        ("10.0.1.7", address("10.0.1.7", NamedPorts=[{"Name": "a"}])),
        ("10.0.1.7", address("10.0.1.7", NamedPorts={"a": 1})),
        ("10.0.1.0/24", address("10.0.1.0", Mask="!")),
        ("10.0.1.0/24", address("10.0.1.0", Mask="AP//AA==")),
        ("10.0.1.0/24", address("10.0.1.0", Mask="////AAAAAAA=")),
    ],
)
def test_malformed_addresses(key: str, value: Any) -> None:
    """Key and value must agree; the identity must be one."""
    with pytest.raises(MalformedRecordError):
        decode_address(row(layout.ip_key(key), value))


@pytest.mark.parametrize(
    "text", ["", "x", "10.0.1.07", "10.0.1.7/24", "2001:DB8::7", "2001:db8::7/64", "10.0.1.7/x"]
)
def test_keys_of_no_address(text: str) -> None:
    """Texts that are not canonical would be a second name for one address."""
    assert address_of(layout.ip_key(text)) is None
    assert decode_address(row(layout.ip_key(text), address("10.0.1.7"))) is None


def node(**more: Any) -> dict[str, Any]:
    """The value of a node as Cilium writes it."""
    addresses = [{"Type": "InternalIP", "IP": "192.0.2.1"}, {"Type": "InternalIP", "IP": "2001:db8::1"}]
    return {"Name": "n1", "Cluster": "east", "IPAddresses": addresses, "ClusterID": 1} | more


NODE_KEY = layout.node_key("east", "n1")


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (None, ["reserved:host"]),
        ({}, ["reserved:host"]),
        (
            {"kubernetes.io/hostname": "n1", "role": ""},
            ["node:kubernetes.io/hostname=n1", "node:role", "reserved:host"],
        ),
        # A label that is called like the reserved one stands beside it.
        ({"host": "fake", "a": "b=c"}, ["node:a=b=c", "node:host=fake", "reserved:host"]),
    ],
)
def test_nodes(labels: dict[str, str] | None, texts: list[str]) -> None:
    """Labels of nodes have a source of their own."""
    read = decode_node(row(NODE_KEY, node(Labels=labels)), "east")
    assert read is not None
    assert read.name == "n1"
    assert sorted(read.labels.texts()) == sorted(texts)


def test_a_node_with_many_labels() -> None:
    """More than an identity may have, and a selector finds each of them."""
    read = decode_node(row(NODE_KEY, node(Labels={f"k{i}": "v" for i in range(200)})), "east")
    assert read is not None
    assert [label.key for label in read.labels] == sorted(label.key for label in read.labels)
    last = LabelSelector.of(Requirement("node", "k199", Operator.EXISTS))
    assert len(read.labels) == 201
    assert last.matches(read.labels)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        node(Name="n2"),
        node(Cluster="west"),
        node(Labels=[]),
        node(Labels={"a": 1}),
        node(Labels={"a": "b;c"}),
        node(Labels={"a=b": "c"}),
        node(Labels={"": "c"}),
    ],
)
def test_malformed_nodes(value: Any) -> None:
    """The value must be about the node of the key, with labels that can be told apart."""
    with pytest.raises(MalformedRecordError):
        decode_node(row(NODE_KEY, value), "east")


@pytest.mark.parametrize(
    "key", [layout.node_key("west", "n1"), layout.node_key("east", ""), f"{NODE_KEY}/x", "x", layout.NODES]
)
def test_keys_of_no_node_of_this_cluster(key: str) -> None:
    """Nodes of other clusters are remote nodes here, whatever their labels."""
    assert node_name(key, "east") is None
    assert decode_node(row(key, node()), "east") is None


def test_addresses_of_a_node() -> None:
    """Both families in canonical form, whatever their type; what is none is left out."""
    written = [{"IP": "192.0.2.1"}, {"IP": "2001:DB8::1", "Type": "CiliumInternalIP"}, {"IP": "x"}, {}]
    assert node_addresses(row(NODE_KEY, node(IPAddresses=written))) == {"192.0.2.1", "2001:db8::1"}
    assert node_addresses(row(NODE_KEY, node(IPAddresses=None))) == frozenset()
    with pytest.raises(MalformedRecordError):
        node_addresses(row(NODE_KEY, b"{"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["IP", "ID", "Mask", "NamedPorts", "Name", "Port", "Labels", "labels", "selector", "backends"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON) | JSON | st.binary())
def test_anything_is_read_or_refused(value: Any) -> None:
    """No other exception, whatever stands in the store."""
    decoders = (
        lambda: decode_service(row(SERVICE_KEY, value)),
        lambda: decode_address(row(layout.ip_key("10.0.1.7"), value)),
        lambda: decode_node(row(NODE_KEY, value), "east"),
    )
    for decode in decoders:
        with contextlib.suppress(MalformedRecordError):
            decode()
