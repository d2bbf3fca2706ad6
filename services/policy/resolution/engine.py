"""All policies, identities and inputs of the cluster, and the policy of each subject, incrementally.

    put_policy, put_service, put_cidr_group … ─> bound rules ─> sets of rules ──┐
    put_identity, put_node ─> selector caches ─> subjects of sets, peers ───────┤
    put_named_ports ─> port names ──────────────────────────────────────────────┤
                                                                                v
    drain: stale frames ─> stale groups ─> stale sets ─> subjects whose policy differs

The outcome depends on the present inputs only, never on the order in which they came; a change touches only
what it affects. Pure and single-threaded; `resolve_all` is the plain twin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policy.subjects import host_key, subject_key
from services.policy.inputs import CidrGroup, CloudGroup, Node, PolicySettings, Service
from services.policy.resolution.bind import BindContext, BoundRule, bind
from services.policy.resolution.bindpeers import unresolved
from services.policy.resolution.conflicts import Conflict
from services.policy.resolution.namedports import NamedPorts, PortName
from services.policy.resolution.plainresolve import PlainInputs, resolve_all
from services.policy.resolution.referrers import (
    ANY_CIDR_GROUP,
    ANY_SERVICE,
    Reference,
    Referrers,
    cidr_group_reference,
    cloud_reference,
    service_reference,
)
from services.policy.resolution.resolve import same_policy
from services.policy.resolution.rulebook import RuleBook, SelectorUse
from services.policy.resolution.rulesets import RuleSets, Subject
from services.policy.resolution.selectorcache import SelectorCache
from services.policy.resolution.setpolicies import SetPolicies
from services.policy.resolution.sharedentries import SharedEntries
from services.policy.rules import ParsedPolicy, Peers, PolicyKey, Rule

__all__ = ["Drained", "PlainInputs", "PolicyEngine", "SelectorUse", "resolve_all", "text_of"]

# Numbers that are peers only: a host is a subject by its node's name, the others have no endpoint.
NEVER_SUBJECTS = frozenset(
    {identities.HOST, identities.UNMANAGED, identities.REMOTE_NODE, identities.KUBE_APISERVER}
)
# Numbers that stand for addresses outside: never a peer by number, since nodes split them further.
WORLD_NUMBERS = frozenset({identities.WORLD, identities.WORLD_IPV4, identities.WORLD_IPV6})


@dataclass(frozen=True, slots=True)
class Drained:
    """What changed since the last drain, by subject key. `faults` are all subjects whose policy cannot be
    computed at present, with the reason; they keep the last one. `dns_rules` are the DNS rules of subjects
    whose policy has others than before, None where it has none any more.
    """

    upserts: Mapping[str, SubjectPolicy]
    removals: frozenset[str]
    faults: Mapping[str, str]
    dns_rules: Mapping[str, DnsRules | None] = field(default_factory=dict)


def text_of(subject: Subject) -> str:
    """The key of a subject in streams."""
    return host_key(subject) if isinstance(subject, str) else subject_key(subject)


def _enforced(subjects: Set[Subject]) -> int:
    return len(subjects) - sum(one in subjects for one in NEVER_SUBJECTS)


class PolicyEngine:
    """The state of one policy service."""

    def __init__(self, settings: PolicySettings) -> None:
        self.settings = settings
        self._services: dict[tuple[str, str], Service] = {}
        self._cidr_groups: dict[PolicyKey, CidrGroup] = {}
        self._cloud_groups: dict[PolicyKey, CloudGroup] = {}
        self._identities: SelectorCache[int] = SelectorCache()
        # Far above the numbers of the other cache, so that one set of numbers serves both.
        self._nodes: SelectorCache[str] = SelectorCache(1 << 48)
        self._port_names = NamedPorts()
        self._referrers = Referrers()
        self._sets = RuleSets()
        self._entries = SharedEntries(self._identities, self._port_names)
        self._book = RuleBook(self._identities, self._nodes, self._entries, settings)
        self._policies = SetPolicies(self._entries, settings)
        self._resolved: dict[Subject, SubjectPolicy] = {}
        self._faults: dict[str, str] = {}
        self._dirty: set[Subject] = set()
        self._stale_sets: set[int] = set()
        self._stale_policies: set[PolicyKey] = set()
        for number, (_, labels) in identities.RESERVED.items():
            self.put_identity(number, labels)

    @property
    def policies(self) -> Mapping[PolicyKey, ParsedPolicy]:
        """The policies in force."""
        return self._book.policies

    @property
    def identities(self) -> Mapping[int, LabelSet]:
        """All cluster-wide and reserved identities but those of the world, with their labels."""
        return self._identities.labels

    @property
    def nodes(self) -> Mapping[str, LabelSet]:
        """All nodes with their labels."""
        return self._nodes.labels

    @property
    def context(self) -> BindContext:
        """What rules may refer to, as it is now."""
        return BindContext(
            settings=self.settings,
            services=self._services,
            cidr_groups=self._cidr_groups,
            cloud_groups=self._cloud_groups,
        )

    @property
    def subject_count(self) -> int:
        """How many subjects have a policy."""
        return len(self._resolved)

    @property
    def resolved(self) -> Mapping[Subject, SubjectPolicy]:
        """The policies of all subjects as of the last drain, by number or by the name of a node."""
        return self._resolved

    def subject(self, number: int) -> SubjectPolicy | None:
        """The policy of an identity as of the last drain; None for one that is unknown or never had one."""
        return self._resolved.get(number)

    def host(self, node: str) -> SubjectPolicy | None:
        """The policy of a node's host as of the last drain; None without a host firewall."""
        return self._resolved.get(node)

    def dns_rules_of(self, policy: SubjectPolicy) -> DnsRules | None:
        """The DNS rules behind the redirects of a subject's policy; None without any."""
        return self._policies.dns_rules(policy.dns_rules_digest) if policy.dns_rules_digest else None

    def fault_of(self, key: str) -> str | None:
        """Why the policy of a subject (its key) cannot be computed; None when it can."""
        return self._faults.get(key)

    def labels(self, number: int) -> LabelSet | None:
        """The labels of an identity."""
        return self._identities.labels.get(number)

    def rules_of(self, subject: Subject) -> tuple[BoundRule, ...]:
        """The rules that select an identity or a node, as of the last drain."""
        number = self._sets.set_of.get(subject)
        name = None if number is None else self._sets.name(number)
        return self._book.rules_with(name.selectors) if name else ()

    def selected_subjects(self, policy: ParsedPolicy) -> set[int]:
        """The identities that a policy selects, whether it is in force or not."""
        return {one for one in self._book.selected(policy) if isinstance(one, int)} - NEVER_SUBJECTS

    def selected_nodes(self, policy: ParsedPolicy) -> set[str]:
        """The nodes that a policy selects, whether it is in force or not."""
        return {one for one in self._book.selected(policy) if isinstance(one, str)}

    def subject_policies(self, policy: ParsedPolicy) -> list[tuple[SubjectPolicy, int]]:
        """The different policies, as of the last drain, of the identities that a policy selects, whether it
        is in force or not, and how many of these identities have each.
        """
        counts: dict[int, int] = {}
        for rule in policy.rules:
            if not rule.of_nodes:
                for number, count in self._sets_of(rule).items():
                    counts[number] = max(counts.get(number, 0), count)
        found = [(self._policies.policy(number), count) for number, count in counts.items()]
        return [(one, count) for one, count in found if one is not None and count]

    def size_of(self, policy: ParsedPolicy) -> int:
        """How many contributions a policy makes to each of its subjects at most, in force or not."""
        return self._book.size_of(bind(policy, self.context))

    def affected_subjects(self, number: int) -> set[str]:
        """Keys of the subject itself and of all subjects whose policy names the number as a peer."""
        sets = self._policies.using(self._entries.naming(number))
        return {subject_key(number)} | {text_of(one) for each in sets for one in self._sets.subjects(each)}

    def conflicts_of(self, *policies: ParsedPolicy, context: BindContext | None = None) -> list[Conflict]:
        """What in policies contradicts itself, each other, or a policy in force about a subject of both.

        They take the place of what is in force under their names; `context` is what they refer to then.
        """
        rules = [rule for policy in policies for rule in bind(policy, context or self.context)]
        return self._book.conflicts_of(rules, self._selectors_beside)

    def unresolved(self, peers: Peers) -> list[str]:
        """What peers refer to that selects nobody now, in words."""
        return unresolved(peers, self.context)

    def selector_uses(self) -> list[SelectorUse]:
        """Every selector of the policies in force, with whom it selects and who uses it, by text."""
        return self._book.selector_uses()

    def put_policy(self, policy: ParsedPolicy) -> None:
        """Add or replace a policy."""
        present = self._book.policies.get(policy.key)
        if present == policy:
            return
        rules = bind(policy, self.context)
        if present is not None:
            self._referrers.remove(present)
        self._referrers.add(policy)
        self._replace(policy.key, policy, rules)

    def remove_policy(self, key: PolicyKey) -> None:
        """Remove a policy; removing what is not there does nothing."""
        present = self._book.policies.get(key)
        if present is not None:
            self._referrers.remove(present)
            self._replace(key, None, ())

    def put_service(self, service: Service) -> None:
        """Add or change a service."""
        if self._services.get((service.namespace, service.name)) != service:
            self._services[service.namespace, service.name] = service
            self._rebind(service_reference(service.namespace, service.name), ANY_SERVICE)

    def remove_service(self, namespace: str, name: str) -> None:
        """Remove a service; removing what is not there does nothing."""
        if self._services.pop((namespace, name), None) is not None:
            self._rebind(service_reference(namespace, name), ANY_SERVICE)

    def put_cidr_group(self, group: CidrGroup) -> None:
        """Add or change a CIDR group."""
        if self._cidr_groups.get(group.key) != group:
            self._cidr_groups[group.key] = group
            self._rebind(cidr_group_reference(group.key.name), ANY_CIDR_GROUP)

    def remove_cidr_group(self, key: PolicyKey) -> None:
        """Remove a CIDR group; removing what is not there does nothing."""
        if self._cidr_groups.pop(key, None) is not None:
            self._rebind(cidr_group_reference(key.name), ANY_CIDR_GROUP)

    def put_cloud_group(self, group: CloudGroup) -> None:
        """Add or change what a cloud reported for a reference."""
        present = self._cloud_groups.get(group.key)
        if present != group:
            self._cloud_groups[group.key] = group
            before = () if present is None else (cloud_reference(present.reference),)
            self._rebind(cloud_reference(group.reference), *before)

    def remove_cloud_group(self, key: PolicyKey) -> None:
        """Remove a cloud group; removing what is not there does nothing."""
        present = self._cloud_groups.pop(key, None)
        if present is not None:
            self._rebind(cloud_reference(present.reference))

    def put_identity(self, number: int, labels: LabelSet) -> None:
        """Add an identity or change its labels. Numbers of the world are left out: nodes know them better."""
        if number in WORLD_NUMBERS or self._identities.labels.get(number) == labels:
            return
        changed = self._identities.put(number, labels)
        self._sets.change(number, self._book.naming_subjects(changed))
        self._dirty.add(number)
        self._entries.on_selectors(changed)

    def remove_identity(self, number: int) -> None:
        """Remove an identity, as peer and as subject."""
        if number in self._identities.labels and number not in identities.RESERVED:
            changed = self._identities.remove(number)
            self._sets.remove(number)
            self._dirty.add(number)
            self._entries.on_selectors(changed)

    def put_node(self, node: Node) -> None:
        """Add a node or change its labels; its host is a subject when the host firewall is on."""
        if self._nodes.labels.get(node.name) == node.labels:
            return
        changed = self._nodes.put(node.name, node.labels)
        if self.settings.host_firewall:
            self._sets.change(node.name, self._book.naming_subjects(changed))
            self._dirty.add(node.name)

    def remove_node(self, name: str) -> None:
        """Remove a node; removing what is not there does nothing."""
        self._nodes.remove(name)
        self._sets.remove(name)
        self._dirty.add(name)

    def put_named_ports(self, number: int, address: str, ports: Mapping[PortName, int]) -> None:
        """Set the ports of an identity's pod at an address, by protocol number and name."""
        self._entries.on_port_names(self._port_names.put(number, address, ports))

    def remove_named_ports(self, number: int, address: str) -> None:
        """Forget the ports of an identity's pod at an address."""
        self._entries.on_port_names(self._port_names.remove(number, address))

    def drain(self, revision: int) -> Drained:
        """Resolve what changed; `revision` is noted in policies that really differ."""
        self._bind_again()
        added, gone = self._sets.take_changes()
        for number in gone:
            self._policies.forget(number)
        stale = (self._stale_sets | added) - gone
        for number in stale:
            name = self._sets.name(number)
            if name is not None:
                self._policies.reframe(number, name.kind, self._book.rules_with(name.selectors))
        stale |= self._policies.using(self._entries.refresh())
        changed = self._policies.resolve(stale, revision)
        self._stale_sets.clear()
        return self._settle(changed)

    def fork(self) -> PolicyEngine:
        """A copy with the same inputs, for what-if questions; the two never see each other's changes."""
        twin = PolicyEngine(self.settings)
        twin._services, twin._cidr_groups = self._services.copy(), self._cidr_groups.copy()
        twin._cloud_groups = self._cloud_groups.copy()
        twin._identities, twin._nodes = self._identities.copy(), self._nodes.copy()
        twin._port_names, twin._referrers = self._port_names.copy(), self._referrers.copy()
        twin._sets = self._sets.copy()
        twin._entries = self._entries.copy(twin._identities, twin._port_names)
        twin._book = self._book.copy(twin._identities, twin._nodes, twin._entries)
        twin._policies = self._policies.copy(twin._entries)
        twin._resolved, twin._faults = self._resolved.copy(), self._faults.copy()
        twin._dirty, twin._stale_sets = self._dirty.copy(), self._stale_sets.copy()
        twin._stale_policies = self._stale_policies.copy()
        return twin

    def _selectors_beside(self, rule: Rule) -> set[int]:
        """The subject selectors in force that select a subject of a rule too."""
        names = [name for name in map(self._sets.name, self._sets_of(rule)) if name is not None]
        found = {selector for name in names for selector in name.selectors}
        known = self._book.selector_in_force(rule.subject, of_nodes=rule.of_nodes)
        return found if known is None else found | {known}

    def _sets_of(self, rule: Rule) -> Mapping[int, int]:
        """The sets of the subjects of a rule, with how many of its subjects are in each."""
        known = self._book.selector_in_force(rule.subject, of_nodes=rule.of_nodes)
        if known is not None:
            return {one: _enforced(self._sets.subjects(one)) for one in self._sets.with_selector(known)}
        set_of = self._sets.set_of
        selected = self._book.selected_by(rule)
        return Counter(set_of[one] for one in selected if one in set_of and one not in NEVER_SUBJECTS)

    def _rebind(self, *references: Reference) -> None:
        self._stale_policies |= self._referrers.of(*references)

    def _bind_again(self) -> None:
        context = self.context
        for key in self._stale_policies:
            policy = self._book.policies.get(key)
            if policy is not None:
                self._replace(key, policy, bind(policy, context))
        self._stale_policies.clear()

    def _replace(self, key: PolicyKey, policy: ParsedPolicy | None, rules: tuple[BoundRule, ...]) -> None:
        """Exchange the rules of a policy; the new ones come first, so that what both share stays."""
        added, removed = self._book.replace(key, policy, rules)
        for selector in added.new_selectors:
            self._dirty.update(self._sets.toggle(selector, self._book.members(selector)))
        for selector in (*added.selectors, *removed.selectors):
            self._stale_sets |= self._sets.with_selector(selector)
        for selector in removed.gone_selectors:
            self._dirty.update(self._sets.toggle(selector, self._book.members(selector)))
        self._book.let_go(removed)

    def _settle(self, changed_sets: Mapping[int, SubjectPolicy | None]) -> Drained:
        """Hand the policies of sets to their subjects."""
        upserts: dict[str, SubjectPolicy] = {}
        dns_rules: dict[str, DnsRules | None] = {}
        removals: set[str] = set()
        for number, before in changed_sets.items():
            for subject in self._sets.subjects(number):
                self._assign(subject, number, before, upserts, dns_rules)
        for subject in self._dirty:
            present = self._sets.set_of.get(subject)
            if present is not None:
                self._assign(subject, present, None, upserts, dns_rules)
                continue
            key = text_of(subject)
            self._faults.pop(key, None)
            last = self._resolved.pop(subject, None)
            if last is not None:
                removals.add(key)
                if last.dns_rules_digest:
                    dns_rules[key] = None
        self._dirty.clear()
        return Drained(upserts, frozenset(removals), dict(self._faults), dns_rules)

    def _assign(
        self,
        subject: Subject,
        number: int,
        before: SubjectPolicy | None,
        upserts: dict[str, SubjectPolicy],
        dns_rules: dict[str, DnsRules | None],
    ) -> None:
        """Give a subject the policy of its set; `before` is one that is known to differ from it."""
        policy, present = self._policies.policy(number), self._resolved.get(subject)
        if policy is None:
            self._faults[text_of(subject)] = self._policies.fault(number)
            return
        if self._faults:
            self._faults.pop(text_of(subject), None)
        if present is policy:
            return
        self._resolved[subject] = policy
        if present is None or present is before or not same_policy(present, policy):
            upserts[text_of(subject)] = policy
            if policy.dns_rules_digest != (b"" if present is None else present.dns_rules_digest):
                dns_rules[text_of(subject)] = self.dns_rules_of(policy)
