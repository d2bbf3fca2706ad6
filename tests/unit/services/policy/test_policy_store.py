"""Stored objects: keys, quarantine, and all kinds through the store in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest

from axoneme.lib.errors import NotFound, StaleRevision
from axoneme.lib.kvstore.memory import MemoryStore
from axoneme.lib.kvstore.port import PutOp, Row
from services.policy.inputs import CidrGroup
from services.policy.reading.objects import CLUSTER_WIDE, ParsedObject, parse_object
from services.policy.rules import ParsedPolicy, PolicyKey
from services.policy.store import PREFIX, PolicyStore, decode, encode, policy_key, store_key
from tests.unit.services.policy.test_policy_objects import VERSION_AND_SPEC, written


def objects() -> list[ParsedObject]:
    """One object of each kind."""
    return [parse_object(written(kind)) for kind in sorted(VERSION_AND_SPEC)]


def cidr_group(*cidrs: str) -> ParsedObject:
    """A CIDR group with these members."""
    return parse_object(written("CiliumCIDRGroup", spec={"externalCIDRs": list(cidrs)}))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (PolicyKey("NetworkPolicy", "shop", "web"), "NetworkPolicy/shop/web"),
        (PolicyKey("CloudGroup", "", "web"), "CloudGroup/-/web"),
    ],
)
def test_keys(key: PolicyKey, text: str) -> None:
    """A cluster-wide object has a dash, which no namespace is called."""
    assert store_key(key) == PREFIX + text
    assert policy_key(PREFIX + text) == key


@pytest.mark.parametrize("key", ["a", "a/b", "a/b/c/d", "/b/c", "a//c", "a/b/", ""])
def test_foreign_keys(key: str) -> None:
    """They are nobody's, neither usable nor quarantined."""
    assert policy_key(PREFIX + key) is None
    assert decode(Row(PREFIX + key, b"{}", 1)) is None
    assert policy_key(f"elsewhere/{key}") is None


def row(key: PolicyKey, value: Any) -> Row:
    """A row of an object, with a JSON value or with bytes."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Row(store_key(key), raw, mod_revision=7, version=3)


@pytest.mark.parametrize("one", objects(), ids=lambda one: one.key.kind)
def test_decode_gives_back_what_was_encoded(one: ParsedObject) -> None:
    """The object with its revision and generation."""
    stored = decode(row(one.key, encode(one)))
    assert stored is not None
    assert (stored.key, stored.parsed, stored.problem) == (one.key, one, "")
    assert (stored.revision, stored.generation) == (7, 3)
    assert json.loads(stored.document) == one.document
    assert stored.policy == (one if isinstance(one, ParsedPolicy) else None)


KNP = PolicyKey("NetworkPolicy", "shop", "p")
GROUP = PolicyKey("CiliumCIDRGroup", "", "g")


def policy(namespace: str = "shop", **more: Any) -> dict[str, Any]:
    """A stored NetworkPolicy."""
    return written("NetworkPolicy", metadata={"name": "p", "namespace": namespace}) | more


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        (KNP, b"", "not JSON"),
        (KNP, b"\xff\xfe{", "not JSON"),
        (KNP, b'{"a": ', "not JSON"),
        (KNP, b"[" * 100_000, "not"),
        (KNP, b'"' + b"a" * 600_000 + b'"', "too large"),
        (KNP, [], "expected an object"),
        (KNP, {"kind": "Secret"}, "is not a policy"),
        (KNP, policy(apiVersion="networking.k8s.io/v2"), "is not accepted"),
        (KNP, policy(spec={"podSelectr": {}}), "unknown key 'podSelectr'"),
        (KNP, policy("other"), "does not belong under this key"),
        # Stored forms always have their namespace; without one it is not that of the key.
        (KNP._replace(namespace="other"), written("NetworkPolicy", "p"), "does not belong under this key"),
        (KNP._replace(namespace=""), policy(), "does not belong under this key"),
        (GROUP._replace(namespace="shop"), written("CiliumCIDRGroup", "g"), "does not belong under this key"),
        (GROUP, written("CloudGroup", "g"), "does not belong under this key"),
        (GROUP, written("CiliumCIDRGroup", "g", spec={"externalCIDRs": ["2001:db8::1"]}), "not a prefix"),
        (GROUP, written("CiliumCIDRGroup", "g", spec={"externalCIDRs": ["10.0.0.1"]}), "not a prefix"),
    ],
)
def test_quarantine(key: PolicyKey, value: Any, problem: str) -> None:
    """What cannot be used says why and keeps its text, so that it can be shown and mended."""
    stored = decode(row(key, value))
    assert stored is not None
    assert (stored.key, stored.parsed, stored.policy) == (key, None, None)
    assert problem in stored.problem
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    assert stored.document == raw.decode(errors="replace")


async def test_all_kinds_are_written_read_and_deleted() -> None:
    """Several kinds in one write; writing them again changes nothing."""
    store = PolicyStore(MemoryStore())
    some = objects()
    written_, revision = await store.write(some)
    assert all(one.changed and one.before is None for one in written_)
    again, unchanged = await store.write(some)
    assert not any(one.changed for one in again)
    assert unchanged == revision
    stored, _ = await store.read([one.key for one in some])
    assert {key: one.parsed for key, one in stored.items()} == {one.key: one for one in some}
    for one in some:
        await store.delete(one.key)
    assert (await store.read([one.key for one in some]))[0] == {}
    with pytest.raises(NotFound, match="CloudGroup/default"):
        await store.delete(PolicyKey("CloudGroup", "", "default"))


async def test_a_change_of_a_group_is_a_new_generation() -> None:
    """Compared by content, guarded by the revision."""
    store = PolicyStore(MemoryStore())
    ((first,), _) = await store.write([cidr_group("10.0.0.0/8")])
    ((second,), _) = await store.write([cidr_group("2001:db8::/32")], expected_revision=first.revision)
    assert (second.changed, second.generation) == (True, 2)
    assert second.before is not None
    assert isinstance(second.before.parsed, CidrGroup)
    with pytest.raises(StaleRevision, match="read it again"):
        await store.write([cidr_group("10.0.0.0/8")], expected_revision=first.revision)


async def test_a_quarantined_object_is_replaced_by_a_good_one() -> None:
    """Applying it again mends it, whatever stood there."""
    memory = MemoryStore()
    store = PolicyStore(memory)
    good = cidr_group("2001:db8::/32")
    await memory.transaction((), [PutOp(store_key(good.key), b"{")])
    stored, _ = await store.read([good.key])
    assert stored[good.key].problem
    ((one,), _) = await store.write([good])
    assert (one.changed, one.generation) == (True, 2)
    assert decode(row(good.key, encode(good))) is not None


def test_kinds_know_whether_they_have_a_namespace() -> None:
    """The key of each parsed object follows its kind."""
    assert {one.key.kind for one in objects() if not one.key.namespace} == CLUSTER_WIDE
