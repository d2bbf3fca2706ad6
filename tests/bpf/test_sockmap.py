"""Socket acceleration between real pods: what goes past the stack, in order, and never past policy."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from axoneme.lib.bpf import BpfError
from axoneme.lib.bpf.cgrouplinks import CgroupHook, CgroupLink, attach_messages, detach_messages
from shim.maps import base, layout, sockets
from shim.socketpairs import leave_to_stack
from tests.bpf.podpair import EXCHANGES, NUMBERS, OPEN, PINS, PODS, PORT, Lab, loaded, pods
from tests.waiting import eventually_sync

pytestmark = pytest.mark.root
family = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])
HANDSHAKE_PACKETS = 12  # with the end of the connection, and acknowledgements


@pytest.fixture(scope="module")
def whole_lab(compiled: None) -> Iterator[Lab]:
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, PINS, ignore_errors=True)
        one = stack.enter_context(pods(unanswered_bytes=1 << 30))
        sk_msg, hashed = one.programs["axoneme_sk_msg"], one.maps["axoneme_sockhash"]
        attach_messages(sk_msg, hashed)
        stack.callback(detach_messages, sk_msg, hashed)
        program, hook = one.programs["axoneme_sockops"], CgroupHook.SOCK_OPS
        link = CgroupLink.create(program, cgroup=one.cgroup, hook=hook)
        stack.callback(link.close)
        yield one


@pytest.fixture
def lab(whole_lab: Lab) -> Lab:
    for worker in (*whole_lab.workers.values(), whole_lab.outsider):
        worker.call("close_kept")
    whole_lab.listeners.clear()
    whole_lab.fill()
    return whole_lab


@family
def test_data_goes_past_the_stack(lab: Lab, v: int) -> None:
    before = lab.packets()
    lab.talk(*lab.connect(v))
    assert lab.packets() - before <= HANDSHAKE_PACKETS
    assert lab.states() == [sockets.PAIR_REDIRECTED] * 2
    assert lab.in_hash() == 2


def test_an_ipv6_socket_that_speaks_ipv4(lab: Lab) -> None:
    before = lab.packets()
    number = lab.workers["b"].call("open_listener", PODS["b"][4], PORT)
    ours = lab.workers["a"].call("keep", "stream", f"::ffff:{PODS['b'][4]}", PORT)
    lab.talk(ours, lab.workers["b"].call("accept", number))
    assert lab.packets() - before <= HANDSHAKE_PACKETS


@family
@pytest.mark.parametrize("where", ["loopback", "own-address"])
def test_connections_inside_a_pod_need_no_registration(lab: Lab, v: int, where: str) -> None:
    address = PODS["b"][v] if where == "own-address" else {4: "127.0.0.1", 6: "::1"}[v]
    lab.maps["axoneme_netns"].delete(sockets.cookie_key(lab.cookies["b"]))
    ours, theirs = lab.connect(v, client="b", address=address)
    lab.talk(ours, theirs, client="b")
    assert lab.states() == [sockets.PAIR_REDIRECTED] * 2
    keys = [sockets.PairKey.unpack(key) for key, _ in lab.maps["axoneme_pairs"].items()]
    assert {key.netns_cookie for key in keys} == {lab.cookies["b"]}


@family
@pytest.mark.parametrize("why", ["client-outside", "unregistered", "foreign-address", "remote-peer"])
def test_who_is_not_accelerated(lab: Lab, v: int, why: str) -> None:
    if why == "unregistered":
        lab.maps["axoneme_netns"].delete(sockets.cookie_key(lab.cookies["b"]))
    elif why == "foreign-address":  # pod b uses an address that the node gave to a
        entry = sockets.NetnsEntry(lab.ifindex("a"), NUMBERS["a"])
        lab.maps["axoneme_netns"].update(sockets.cookie_key(lab.cookies["b"]), entry.pack())
    elif why == "remote-peer":
        lab.maps["axoneme_local"].delete(base.address_bytes(PODS["b"][v]))
    elif why == "client-outside":
        lab.workers["a"], lab.outsider = lab.outsider, lab.workers["a"]
    try:
        before = lab.packets()
        lab.talk(*lab.connect(v))
        assert lab.packets() - before >= 2 * EXCHANGES
        assert sockets.PAIR_REDIRECTED not in lab.states()
    finally:
        if why == "client-outside":
            lab.workers["a"], lab.outsider = lab.outsider, lab.workers["a"]


@family
@pytest.mark.parametrize("slowly", [False, True], ids=["fast-reader", "slow-reader"])
def test_every_byte_arrives_in_order(lab: Lab, v: int, slowly: bool) -> None:
    before = lab.packets()
    ours, theirs = lab.connect(v)
    total = 3_000_000 if slowly else 30_000_000
    lab.workers["b"].begin("collect", theirs, slowly)
    sent = lab.workers["a"].call("pour", ours, total)
    assert lab.workers["b"].finish() == sent
    assert lab.packets() - before <= HANDSHAKE_PACKETS


@family
@pytest.mark.parametrize("pod", ["a", "b"])
def test_every_byte_arrives_when_policy_changes_under_way(lab: Lab, v: int, pod: str) -> None:
    """From the change on the data takes the stack; what was redirected before is read first."""
    ours, theirs = lab.connect(v)
    lab.workers["a"].call("pour", ours, 2_000_000, False)
    assert sockets.PAIR_REDIRECTED in lab.states()
    lab.policy(pod, OPEN)
    before = lab.packets()
    lab.workers["b"].begin("collect", theirs, False)
    sent = lab.workers["a"].call("pour", ours, 2_000_000)
    assert lab.workers["b"].finish() == sent
    assert sent["bytes"] == 4_000_000
    assert lab.packets() - before > 30
    assert sockets.PAIR_STACK in lab.states()


@family
@pytest.mark.parametrize("pod", ["a", "b"])
def test_a_new_denial_cuts_what_is_redirected(lab: Lab, v: int, pod: str) -> None:
    ours, theirs = lab.connect(v)
    lab.talk(ours, theirs, 3)
    assert lab.states() == [sockets.PAIR_REDIRECTED] * 2
    lab.policy(pod, {})
    for worker, number, other, peer in (("a", ours, "b", theirs), ("b", theirs, "a", ours)):
        lab.workers[worker].call("say", number, "secret")
        assert lab.workers[other].call("hear", peer, 6, 0.3) == {"text": "", "late": True}
    assert lab.states() == [sockets.PAIR_STACK] * 2


@family
def test_a_lost_conntrack_entry_ends_redirection(lab: Lab, v: int) -> None:
    ours, theirs = lab.connect(v)
    lab.talk(ours, theirs, 3)
    lab.maps["axoneme_ct"].delete_batch([key for key, _ in lab.maps["axoneme_ct"].items()])
    before = lab.packets()
    lab.talk(ours, theirs)
    assert lab.packets() - before >= 2 * EXCHANGES


@family
def test_redirected_data_keeps_conntrack_alive(lab: Lab, v: int) -> None:
    ours, theirs = lab.connect(v)
    lab.talk(ours, theirs, 1)
    old = {}
    for key, value in lab.maps["axoneme_ct"].items():
        if key.startswith(base.MAPPED) != (v == 4):
            continue  # the last packets of an earlier test's connection
        entry = layout.CtEntry.unpack(value)
        old[key] = entry.last_seen_ns - 10 * 10**9
        aged = layout.CtEntry(
            **{name: getattr(entry, name) for name in entry.__slots__} | {"last_seen_ns": old[key]}
        )
        lab.maps["axoneme_ct"].update(key, aged.pack())
    lab.talk(ours, theirs, 1)
    assert lab.states() == [sockets.PAIR_REDIRECTED] * 2
    renewed = {key: layout.CtEntry.unpack(value) for key, value in lab.maps["axoneme_ct"].items()}
    assert len(old) == 2
    assert all(renewed[key].last_seen_ns > old[key] + 5 * 10**9 for key in old)


@family
def test_what_is_said_at_once_arrives_in_order(lab: Lab, v: int) -> None:
    """The first data may be on its way through the stack before the peer's socket is known."""
    number = lab.workers["b"].call("open_listener", PODS["b"][v], PORT)
    lab.workers["b"].begin("greetings", number, 300)
    assert lab.workers["a"].call("greet", PODS["b"][v], PORT, 300) == 300
    assert lab.workers["b"].finish() == [f"{one:05d}-and-more" for one in range(300)]


@family
def test_the_end_comes_after_the_data(lab: Lab, v: int) -> None:
    ours, theirs = lab.connect(v)
    lab.workers["a"].call("say", ours, "last words")
    lab.workers["a"].call("finish", ours)
    assert lab.workers["b"].call("hear", theirs, 100) == {"text": "last words"}
    for worker in lab.workers.values():
        worker.call("close_kept")
    eventually_sync(lambda: lab.in_hash() == 0)


@pytest.fixture
def usual(lab: Lab) -> Iterator[Lab]:
    """With the limit of bytes that wait for an answer, which other tests do without."""
    _, programs = loaded("sockmap.o")
    sk_msg, hashed = programs["axoneme_sk_msg"], lab.maps["axoneme_sockhash"]
    attach_messages(sk_msg, hashed)
    yield lab
    attach_messages(lab.programs["axoneme_sk_msg"], hashed)


@family
def test_a_stream_changes_over_to_the_stack(usual: Lab, v: int) -> None:
    """Whose reader sleeps, does not fill the node's memory."""
    ours, theirs = usual.connect(v)
    usual.talk(ours, theirs, 1)
    taken = usual.workers["a"].call("pour_freely", ours, 1 << 30)
    assert 1 << 20 <= taken < 64 << 20
    assert sorted(usual.states()) == [sockets.PAIR_REDIRECTED, sockets.PAIR_STACK]
    usual.workers["a"].call("finish", ours)
    assert usual.workers["b"].call("collect", theirs, False)["bytes"] == taken


@family
def test_every_byte_of_a_stream_arrives_in_order(usual: Lab, v: int) -> None:
    ours, theirs = usual.connect(v)
    usual.workers["b"].begin("collect", theirs, True)
    sent = usual.workers["a"].call("pour", ours, 3_000_000)
    assert usual.workers["b"].finish() == sent


@family
def test_questions_and_answers_never_change_over(usual: Lab, v: int) -> None:
    ours, theirs = usual.connect(v)
    question = "?" * 60_000
    for _ in range(20):
        usual.workers["a"].call("say", ours, question)
        assert usual.workers["b"].call("hear", theirs, len(question))["text"] == question
        usual.workers["b"].call("say", theirs, "!")
        usual.workers["a"].call("hear", ours, 1)
    assert usual.states() == [sockets.PAIR_REDIRECTED] * 2


@family
def test_connections_can_be_taken_back(lab: Lab, v: int) -> None:
    ours, theirs = lab.connect(v)
    lab.talk(ours, theirs, 3)
    pairs = lab.maps["axoneme_pairs"]
    assert leave_to_stack(pairs, ipaddress.ip_address("192.0.2.1")) == 0
    lab.workers["a"].call("say", ours, "unread-")
    assert leave_to_stack(pairs, ipaddress.ip_address(PODS["a"][v])) == 2
    assert leave_to_stack(pairs) == 0
    before = lab.packets()
    lab.workers["a"].call("say", ours, "read")
    assert lab.workers["b"].call("hear", theirs, 11) == {"text": "unread-read"}
    lab.talk(ours, theirs)
    assert lab.packets() - before >= 2 * EXCHANGES


def test_detaching_what_is_not_attached_says_so(lab: Lab) -> None:
    with pytest.raises(BpfError, match="axoneme_sockhas"):
        detach_messages(lab.programs["axoneme_sockops"], lab.maps["axoneme_sockhash"])
