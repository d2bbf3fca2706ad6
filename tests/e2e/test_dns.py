"""Policy about names, on real packets: who may look up what, and who may reach what came back.

The resolver is a pod on the other node; what is outside is the laboratory's internet. Clients are dig, curl
and the libc. `many.test` and its like are answered by tests/e2e/nameserver.py.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from axoneme.api.fqdn.v1 import fqdn_pb2
from axoneme.lab import internet, network
from tests.conftest import scaled
from tests.e2e.dns import (
    FIRST_PACKETS,
    becomes_refused,
    dig,
    dns_flows,
    fetch,
    names_policy,
    resolves,
    trial_names,
    url_of,
)
from tests.e2e.probes import new_pod, traffic_in
from tests.e2e.running import REPOSITORY, Running
from tests.e2e.services import BACKEND_PORT, connected
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

VERSIONS = pytest.mark.parametrize("version", [4, 6])
KINDS = {4: "A", 6: "AAAA"}
SHOP, API = internet.site("shop.example.com"), internet.site("api.example.com")
EXAMPLE = REPOSITORY / "examples" / "policies" / "dns.yaml"


@pytest.fixture(scope="module")
def trial(laboratory_of_the_session: Running) -> Iterator[None]:
    with trial_names():
        yield


@VERSIONS
def test_an_allowed_name_can_be_looked_up_and_reached(lab: Running, version: int) -> None:
    lab.in_force(names_policy("shop.example.com"))
    ip = SHOP.ips[version == 6]
    assert not fetch(lab, "frontend", url_of(ip), seconds=0.3), "nobody looked the name up yet"
    assert dig(lab, "frontend", "shop.example.com", version=version, kind=KINDS[version]).ips == (ip,)
    assert fetch(lab, "frontend", url_of(ip)), "the first packet after the answer"
    assert fetch(lab, "frontend", url_of(ip).replace("http:", "https:").replace(":80/", ":443/"))
    assert not fetch(lab, "frontend", url_of(API.ips[version == 6]), seconds=0.3)


@VERSIONS
def test_another_name_is_refused_and_teaches_nothing(lab: Running, version: int) -> None:
    lab.in_force(names_policy("shop.example.com"))
    assert dig(lab, "frontend", "api.example.com", version=version).status == "REFUSED"
    assert dig(lab, "frontend", "api.example.com", version=version, tcp=True).status == "REFUSED"
    assert not fetch(lab, "frontend", url_of(API.ips[version == 6]), seconds=0.3)


def test_what_one_pod_learned_no_other_pod_may_use(lab: Running) -> None:
    lab.in_force(names_policy("*.example.com"))
    lab.in_force(names_policy("*.example.com", pod="batch"))
    assert dig(lab, "frontend", "shop.example.com").ok
    for ip in (SHOP.ips[0],):
        assert fetch(lab, "frontend", url_of(ip))
        assert not fetch(lab, "batch", url_of(ip), seconds=0.3), "batch did not look it up"
    assert dig(lab, "batch", "shop.example.com").ok
    assert fetch(lab, "batch", url_of(SHOP.ips[0]))


def test_the_announced_example_works_as_it_stands(lab: Running) -> None:
    """The policy of Cilium 1.4's announcement, for a pod with its labels: queries below domain.com alone."""
    with new_pod(lab, "web", "node1", labels=["app=web"]):
        lab.in_force(EXAMPLE.read_text())
        assert dig(lab, "web", "shop.example.com", sockets=False).status == "REFUSED"
        assert dig(lab, "web", "www.domain.com", sockets=False).ips == internet.site("www.domain.com").ips[:1]


@VERSIONS
def test_an_address_expires_with_its_ttl_and_open_connections_go_on(
    lab: Running, trial: None, version: int
) -> None:
    lab.in_force(names_policy("*.ttl.test", ports=(80, BACKEND_PORT)))
    answer = dig(lab, "frontend", "t1.ttl.test", version=version, kind=KINDS[version])
    assert answer.ttl == 1
    ip = answer.ips[0]
    with internet_echo(), connected(lab, "frontend", ip, BACKEND_PORT) as echoes:
        assert fetch(lab, "frontend", url_of(ip))
        message = "the address needs a new look-up"
        eventually_sync(lambda: not fetch(lab, "frontend", url_of(ip), seconds=0.3), message=message)
        before = echoes()
        eventually_sync(lambda: echoes() > before, message="the open connection goes on")
        dig(lab, "frontend", "t1.ttl.test", version=version, kind=KINDS[version])
        assert fetch(lab, "frontend", url_of(ip))


@contextmanager
def internet_echo() -> Iterator[None]:
    """An echo server at every address of the internet."""
    with traffic_in(internet.NETNS, "echo-server", str(BACKEND_PORT)) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "READY\n"
            yield
        finally:
            server.communicate()


def test_an_alias_teaches_the_address_for_the_name_that_was_asked(lab: Running, trial: None) -> None:
    lab.in_force(names_policy("cdn.example.com", "chain.test"))
    edge = internet.site("edge.example.net").ips[0]
    assert dig(lab, "frontend", "cdn.example.com").ips == (edge,)
    assert fetch(lab, "frontend", url_of(edge))
    assert dig(lab, "frontend", "edge.example.net").status == "REFUSED"
    answer = dig(lab, "frontend", "chain.test")
    assert answer.ok
    assert fetch(lab, "frontend", url_of(answer.ips[0]))


@VERSIONS
def test_over_tcp_and_after_truncation(lab: Running, trial: None, version: int) -> None:
    lab.in_force(names_policy("*.example.com", "big.test"))
    assert dig(lab, "frontend", "shop.example.com", version=version, tcp=True).ips == (SHOP.ips[0],)
    assert fetch(lab, "frontend", url_of(SHOP.ips[0]))
    assert dig(lab, "frontend", "big.test", version=version).truncated
    whole = dig(lab, "frontend", "big.test", version=version, tcp=True)
    assert len(whole.ips) == 200
    assert fetch(lab, "frontend", url_of(whole.ips[-1]))


def test_edns_and_other_types_pass_unchanged(lab: Running) -> None:
    lab.in_force(names_policy("*.example.com"))
    assert dig(lab, "frontend", "shop.example.com", words=("+edns=0", "+nsid", "+bufsize=1232")).ok
    assert dig(lab, "frontend", "shop.example.com", words=("+noedns",)).ok
    assert dig(lab, "frontend", "shop.example.com", kind="TXT").status == "NOERROR"
    kdig = lab.inside("frontend", "kdig", f"@{lab.ip('dns')}", "shop.example.com", "+short", "+retry=0")
    done = subprocess.run(kdig, check=False, capture_output=True, text=True, timeout=20)
    assert done.stdout.split() == [SHOP.ips[0]]


def test_search_domains_of_the_libc_need_rules_of_their_own(lab: Running) -> None:
    """Each expanded name is a query of its own; a refused one does not end the search of this libc."""
    lab.in_force(names_policy("shop.example.com", "shop.example.com.cluster.local"))
    searching = ("LOCALDOMAIN=svc.cluster.local cluster.local", "RES_OPTIONS=ndots:5")
    found = resolves(lab, "frontend", "shop.example.com", environment=searching)
    assert set(SHOP.ips) <= found
    assert fetch(lab, "frontend", "http://shop.example.com/", seconds=5)


def test_a_wrong_answer_teaches_nothing_and_no_answer_is_invented(lab: Running, trial: None) -> None:
    lab.in_force(names_policy("*.test"))
    wrong = dig(lab, "frontend", "bogus.test")
    assert all(not fetch(lab, "frontend", url_of(ip), seconds=0.3) for ip in wrong.ips)
    assert dig(lab, "frontend", "silent.test", seconds=1).status == "none"
    assert dig(lab, "frontend", "fail.test").status == "SERVFAIL"


def test_rotating_addresses_use_one_identity(lab: Running, trial: None) -> None:
    lab.in_force(names_policy("rotate.test"))
    ips = {ip for _ in range(20) for ip in dig(lab, "frontend", "rotate.test").ips}
    assert len(ips) > 100
    assert fetch(lab, "frontend", url_of(sorted(ips)[0]))
    found = lab.client.fqdn("node1").ListCache(fqdn_pb2.ListCacheRequest(match_pattern="rotate.test"))
    learned = {one.address: one.identity for entry in found.entries for one in entry.addresses}
    assert len(learned) > 100
    assert len(set(learned.values())) == 1
    assert 0 not in learned.values()
    assert "rotate.test" in lab.command("fqdn", "names", "--node", "node1").out


@VERSIONS
def test_the_first_packet_after_an_answer_is_never_dropped(lab: Running, trial: None, version: int) -> None:
    lab.in_force(names_policy("*.many.test"))
    count = scaled(500, 50_000)
    program = [sys.executable, FIRST_PACKETS, lab.ip("dns", version), str(count), "0", str(version)]
    command = [*network.entering(lab.cluster.netns("frontend")), *program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=3000)
    dropped = lab.flows("--verdict", "DROPPED", "--from-pod", "default/frontend", "--last", "5")
    assert done.stdout.split() == ["0", "0"], f"names without an answer, connections without: {dropped}"


def test_removing_the_policy_gives_everything_back(lab: Running) -> None:
    lab.in_force(names_policy("shop.example.com"))
    becomes_refused(lab, "frontend", "api.example.com")
    lab.delete("names-of-frontend")
    assert dig(lab, "frontend", "api.example.com").ok
    assert fetch(lab, "frontend", url_of(API.ips[0]))


def test_narrower_rules_hold_at_once_and_cut_what_they_no_longer_allow(lab: Running) -> None:
    lab.in_force(names_policy("*.example.com"))
    assert dig(lab, "frontend", "api.example.com").ok
    assert fetch(lab, "frontend", url_of(API.ips[0]))
    lab.in_force(names_policy("shop.example.com"))
    assert dig(lab, "frontend", "api.example.com").status == "REFUSED"
    assert not fetch(lab, "frontend", url_of(API.ips[0]), seconds=0.3)


def test_a_selector_that_comes_later_knows_what_was_learned_before(lab: Running) -> None:
    lab.in_force(names_policy("*.example.com", fqdns=("shop.example.com",)))
    assert dig(lab, "frontend", "api.example.com").ok
    assert not fetch(lab, "frontend", url_of(API.ips[0]), seconds=0.3)
    lab.in_force(names_policy("*.example.com", fqdns=("shop.example.com", "api.example.com")))
    message = "the address that was learned before is reachable"
    eventually_sync(lambda: fetch(lab, "frontend", url_of(API.ips[0])), message=message)


def test_a_cidr_deny_wins_over_a_learned_address(lab: Running) -> None:
    deny = """
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: deny-shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egressDeny: [{toCIDR: [203.0.113.10/32, "2001:db8:113::10/128"]}]
"""
    lab.in_force(names_policy("*.example.com") + deny)
    assert dig(lab, "frontend", "shop.example.com").ok
    assert dig(lab, "frontend", "api.example.com").ok
    assert not fetch(lab, "frontend", url_of(SHOP.ips[0]), seconds=0.3)
    assert fetch(lab, "frontend", url_of(API.ips[0]))


def test_every_question_and_answer_is_a_flow(lab: Running) -> None:
    lab.in_force(names_policy("shop.example.com"))
    assert dig(lab, "frontend", "shop.example.com").ok
    assert dig(lab, "frontend", "api.example.com").status == "REFUSED"
    assert fetch(lab, "frontend", url_of(SHOP.ips[0]))

    def seen() -> bool:
        kinds = {
            (flow["l7"]["type"], flow["l7"]["dns"]["query"], flow["verdict"])  # type: ignore[index]
            for flow in dns_flows(lab, "--last", "50")
        }
        return {
            ("REQUEST", "shop.example.com.", "FORWARDED"),
            ("RESPONSE", "shop.example.com.", "FORWARDED"),
            ("REQUEST", "api.example.com.", "DROPPED"),
        } <= kinds

    eventually_sync(seen, message="the look-ups are flows")
    named = lab.flows("--to-fqdn", "shop.example.com", "--last", "20")
    assert any(flow["IP"]["destination"] == SHOP.ips[0] for flow in named)
    assert all("shop.example.com" in " ".join(flow.get("destination_names", ())) for flow in named)
