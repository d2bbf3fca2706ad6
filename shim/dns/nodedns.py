"""DNS as the policy sink sees it: what to ask before a switch, what to do around it, what to tell after it.

    want ─► publish ─► obstacle? ─► ports ─► [switch] ─► tell
              └► no session: what was learned is brought into line here

The session with the proxy (`shim.dns.session`) hears of changes through `on_redirects` and `on_table`; it
never makes anything here wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from axoneme.lib import log
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.errors import AxonemeError
from axoneme.lib.intent import Failure
from axoneme.lib.policy.model import PortBlock, SubjectPolicy
from axoneme.lib.policycodec import host_node
from shim.dns.identities import NameIdentities
from shim.dns.learned import LearnedAddresses
from shim.dns.order import UNKNOWN_DIGEST, RedirectOrder
from shim.dns.proxiedports import PortTable, ports_of
from shim.dns.table import IdentityTable
from shim.holders import Holders
from shim.inforce import PoliciesInForce
from shim.localidentities import LocalIdentities
from shim.maps.layout import HOST_ENDPOINT_ID
from shim.neededfeatures import DNS_PROXY_FEATURES, first_missing

logger = logging.getLogger(__name__)

ALONE_SECONDS = 3.0
"""Without a session for so long, no proxy lives that read an earlier file: it would have been back."""


class NodeDns:
    """Order, identities and kernel state of one node."""

    def __init__(
        self,
        *,
        names: NameIdentities,
        learned: LearnedAddresses | None = None,
        ports: PortTable | None = None,
        clock: Callable[[], float],
        proxy_port: int = 0,
    ) -> None:
        """`proxy_port`: where the node's DNS proxy is to take packets, 0 without one."""
        self.order = RedirectOrder()
        self.names = names
        self.proxy_port = proxy_port
        """Where redirected packets are taken; 0 while this node cannot redirect any."""
        self.redirects: dict[str, bytes] = {}
        """What is redirected now, by subject: the digest of its rules, empty where nothing is."""
        self.on_redirects: Callable[[Mapping[str, bytes]], None] = _nobody_listens
        self.on_table: Callable[[int], None] = _nobody_listens
        self.on_forget: Callable[[int], None] = _nobody_listens
        self.ports_problem = ""
        self.delayed = 0  # times that redirects had to wait for rules
        self._learned, self._ports, self._clock = learned, ports, clock
        self._wanted_port, self._proxy = proxy_port, proxy_port > 0
        self._ports_set: frozenset[PortBlock] | None = None
        self._alone_since = clock()

    @classmethod
    def without_proxy(cls, local: LocalIdentities) -> NodeDns:
        """A node that redirects nothing and learns nothing."""
        names = NameIdentities(local, _NoFile(), lambda *_: frozenset(), enabled=False)
        return cls(names=names, clock=lambda: 0.0)

    # --- identities of names

    async def publish(self, covered: int) -> None:
        """The file follows what maps know; what was learned follows the file."""
        if self.names.publish(covered):
            self.on_table(self.names.table.revision)
        if not self.order.connected and self.names.moved_revision < self.names.table.revision:
            await self._sweep()
            if not self._proxy:
                self.names.applied(self.names.table.revision)

    async def settle_alone(self) -> bool:
        """Without a proxy for a while: numbers that left the file are free; True when that is news."""
        alone = not self.order.connected and self._clock() - self._alone_since >= ALONE_SECONDS
        if not alone or self.names.in_step:
            return False
        revision = self.names.table.revision
        await self._sweep()
        return self.names.moved_revision >= revision and self.names.applied(revision)

    async def _sweep(self) -> None:
        table = self.names.table
        try:
            if self._learned is not None:
                await self._learned.sweep(table)
        except BpfError as error:
            logger.warning("learned addresses not brought into line", extra={log.ERROR: log.clip(error)})
        else:
            self.names.moved(table.revision)

    async def drop_idle(self) -> None:
        """Unforeseen sets that nobody uses are wanted no more."""
        if self._learned is not None and self._proxy:
            self.names.drop_idle(await self._learned.used())

    async def forget(self, endpoint_id: int) -> None:
        """An endpoint comes or goes: nothing that was learned under its number stays. Raises BpfError."""
        self.on_forget(endpoint_id)
        if self._learned is not None:
            await self._learned.forget(endpoint_id)

    # --- redirects

    def set_features(self, features: Mapping[str, str]) -> None:
        """What the kernel can do; policies that were refused for want of it are tried again in their time."""
        able = self._proxy and not first_missing(features, DNS_PROXY_FEATURES)
        self.proxy_port = self._wanted_port if able else 0

    def port_for(self, key: str) -> int:
        """The proxy's port for redirects of a subject; the node's own packets are not redirected."""
        return 0 if host_node(key) is not None else self.proxy_port

    def obstacle(self, key: str, policy: SubjectPolicy) -> Failure | None:
        """Why new redirects of a subject have to wait."""
        if not self.order.lacks(key, policy.dns_rules_digest):
            return None
        self.delayed += 1
        text = "the DNS proxy does not judge by the rules of this policy yet; the last policy stays in force"
        return Failure("UNAVAILABLE", "DNS_RULES_NOT_READY", text)

    def open_ports(self, blocks: frozenset[PortBlock]) -> None:
        """Before a switch to redirects of these ports. Raises Unavailable."""
        known = self._ports_set or frozenset()
        if not blocks <= known and self._ports is not None:
            self._ports.replace(ports_of(blocks | known))
            self._ports_set = blocks | known

    def settle_ports(self, blocks: frozenset[PortBlock]) -> None:
        """These are all that maps in force redirect; what cannot be written is tried with the next change."""
        if blocks == self._ports_set or self._ports is None:
            return
        try:
            self._ports.replace(ports_of(blocks))
        except AxonemeError as error:
            self.ports_problem = f"ports of redirects are not in the kernel: {error}; they are tried again"
        else:
            self._ports_set, self.ports_problem = blocks, ""

    def tell(self, redirects: Mapping[str, bytes]) -> None:
        """What is redirected now."""
        self.redirects = dict(redirects)
        changes = self.order.changes(redirects)
        if changes:
            self.on_redirects(changes)

    # --- the session

    def opened(self) -> dict[str, bytes]:
        """A session begins; returns what it has to say first."""
        return self.order.open(self.redirects)

    def closed(self) -> bool:
        """The session is over; True when policies may be tried again."""
        self._alone_since = self._clock()
        waited = self.order.close()
        return waited or not self.names.in_step


def redirects_of(
    holders: Holders, in_force: PoliciesInForce, newest: Mapping[str, SubjectPolicy]
) -> dict[str, bytes]:
    """What is redirected for each subject of the node: the digest of its rules, empty where nothing is.

    While holders of one subject differ, what is told is not the newest: the proxy keeps the rules of both.
    """
    found: dict[str, bytes] = {}
    for holder in holders:
        key = holders.key_of(holder)
        if host_node(key) is not None:
            continue
        told = found.setdefault(key, b"")
        one = in_force.of(holder.endpoint_id)
        if one is None or not one.redirected:
            continue
        digest = one.policy.dns_rules_digest if one.policy is not None else UNKNOWN_DIGEST
        latest = newest[key].dns_rules_digest if key in newest else b""
        if told in (b"", latest):
            found[key] = digest
    return found


def mark_learning(holders: Holders, numbers: Iterable[int], *, learns: bool) -> None:
    """Programs look for learned addresses of these holders, or do not. Raises Unavailable."""
    for number in numbers:
        holder = holders.get(number)
        if number != HOST_ENDPOINT_ID and holder is not None and holder.learns is not learns:
            holders.write(holders.change(number, learns=learns))


class _NoFile:
    """A file that nobody reads."""

    path = "nowhere"

    def load(self) -> IdentityTable:
        return IdentityTable()

    def save(self, table: IdentityTable) -> None:
        pass


def _nobody_listens(_: object) -> None:
    pass
