"""Mistakes in how rules are resolved against settings, identities, services, groups and names."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_BIND = "services/policy/resolution/bind.py"
_BIND_PEERS = "services/policy/resolution/bindpeers.py"
_ENTITIES = "services/policy/resolution/entities.py"
_LOCKING = "services/policy/resolution/locking.py"
_RESOLVE = "services/policy/resolution/resolve.py"
_NAMES = "services/policy/resolution/namedports.py"
_EXPANSION = "services/policy/resolution/expansion.py"
_CACHE = "services/policy/resolution/selectorcache.py"
_SHARED = "services/policy/resolution/sharedentries.py"
_SELECTORS = "axoneme/lib/selectors.py"

RESOLVER = (
    Mutant(
        "NotIn needs the key",
        _CACHE,
        "    return inside if requirement.operator is Operator.IN else not inside\n",
        "    return inside if requirement.operator is Operator.IN else bool(values) and not inside\n",
    ),
    Mutant(
        "NotIn of references needs the key",
        _SELECTORS,
        "return inside if self.operator is Operator.IN else not inside",
        "return inside if self.operator is Operator.IN else bool(values) and not inside",
    ),
    Mutant(
        "sources of labels ignored",
        _CACHE,
        "values = [label.value for label in found if requirement.source in (ANY, label.source)]",
        "values = [label.value for label in found]",
    ),
    Mutant(
        "the source any means k8s",
        _SELECTORS,
        "return (source, name) if colon and source else (ANY, key)",
        'return (source, name) if colon and source else ("k8s", key)',
    ),
    Mutant(
        "requirements of a selector are alternatives",
        _CACHE,
        "return all(_meets(requirement, by_key) for requirement in selector.requirements)",
        "return any(_meets(requirement, by_key) for requirement in selector.requirements)",
    ),
    Mutant(
        "Exists filed under a value",
        _CACHE,
        "            found.append(((requirement.key, None),))",
        '            found.append(((requirement.key, ""),))',
    ),
    Mutant(
        "selectors without a positive requirement forgotten",
        _CACHE,
        "candidates = set(self._unfiled)\n"
        "        for slot in _slots_of(labels):\n            self._members_by_slot",
        "candidates = set[int]()\n        for slot in _slots_of(labels):\n            self._members_by_slot",
    ),
    Mutant(
        "a changed identity keeps its old selectors",
        _CACHE,
        "        before = self.remove(member)\n",
        "        before = set[int]()\n",
    ),
    Mutant(
        "the world has only the old label",
        "axoneme/lib/policy/cidrlabels.py",
        'WORLD_KEYS: Final = frozenset({"world", "world-ipv4", "world-ipv6"})',
        'WORLD_KEYS: Final = frozenset({"world", "world-ipv4"})',
    ),
    Mutant(
        "cluster takes in pods of other clusters",
        _ENTITIES,
        "selectors = (LabelSelector((in_cluster(settings.cluster_name),)),)",
        "selectors = (_ANY_CLUSTER,)",
    ),
    Mutant(
        "cluster leaves out health",
        _ENTITIES,
        "        identities.HEALTH,\n",
        "",
    ),
    Mutant(
        "world of one family is everything outside",
        _ENTITIES,
        "return EntityMembers(definition=LabelsDefinition((carrying(entity.value),))) if dual else _NOBODY",
        "return _FIXED[EntityName.WORLD]",
    ),
    Mutant(
        "remote-node leaves out the API server",
        _ENTITIES,
        "numbers=frozenset({identities.REMOTE_NODE, identities.KUBE_APISERVER}), definition=_REMOTE",
        "numbers=frozenset({identities.REMOTE_NODE}), definition=_REMOTE",
    ),
    Mutant(
        "the external API server is not of the entity",
        _ENTITIES,
        "numbers=frozenset({identities.KUBE_APISERVER}), definition=_API_SERVER",
        "numbers=frozenset({identities.KUBE_APISERVER})",
    ),
    Mutant(
        "peers of the default local cluster not narrowed",
        _BIND_PEERS,
        "if not settings.default_local_cluster or mentions_reserved(selector) or mentions_cluster(selector):",
        "if True:",
    ),
    Mutant(
        "peers narrowed to the local cluster always",
        _BIND_PEERS,
        "if not settings.default_local_cluster or mentions_reserved(selector) or mentions_cluster(selector):",
        "if mentions_reserved(selector) or mentions_cluster(selector):",
    ),
    Mutant(
        "an explicit cluster does not lift the default",
        _BIND_PEERS,
        " or mentions_reserved(selector) or mentions_cluster(selector):",
        " or mentions_reserved(selector):",
    ),
    Mutant(
        "CIDR rules never select nodes",
        _BIND_PEERS,
        "nodes = settings.cidr_match_nodes",
        "nodes = False",
    ),
    Mutant(
        "fromNodes selects pods",
        _BIND_PEERS,
        "        nodes = selector.also(_REMOTE_NODE)\n",
        "        nodes = selector\n",
    ),
    Mutant(
        "services by name found in any namespace",
        _BIND_PEERS,
        "found = self.services.get((peer.namespace, peer.name))\n            return [found] if found else []",
        "return [one for one in self.services.values() if one.name == peer.name]",
    ),
    Mutant(
        "backends of services are pods of any namespace",
        _BIND_PEERS,
        "pods = LabelSelector.of(in_namespace(service.namespace), *wanted)",
        "pods = LabelSelector.of(*wanted)",
    ),
    Mutant(
        "resolved-empty is anyone",
        _BIND_PEERS,
        "    for service in (one for peer in peers.services for one in context.services_of(peer)):",
        "    if peers.services and not any(map(context.services_of, peers.services)):\n"
        "        return PeerSide(anyone=True)\n"
        "    for service in (one for peer in peers.services for one in context.services_of(peer)):",
    ),
    Mutant(
        "empty groups are everything outside",
        _BIND_PEERS,
        "        if include:\n            nodes",
        '        include = include or ("0.0.0.0/0", "::/0")\n        if include:\n            nodes',
    ),
    Mutant(
        "selectors of CIDR groups select every group",
        _BIND_PEERS,
        "return peer.selector.matches(_label_set(_CIDR_GROUP, group.labels))",
        "return True",
    ),
    Mutant(
        "proxies ignored",
        _BIND,
        "if l7 is None or entry.action is not Action.ALLOW:",
        "if True:",
    ),
    Mutant(
        "all parsers equally strong",
        _BIND,
        'return l7.priority or REDIRECT_PRIORITY.get(l7.parser, REDIRECT_PRIORITY["generic"])',
        'return REDIRECT_PRIORITY["generic"]',
    ),
    Mutant(
        "authentication ignored",
        _BIND,
        "auth=entry.auth if entry.action is Action.ALLOW else None,",
        "auth=None,",
    ),
    Mutant(
        "audited policies enforced",
        _BIND,
        "                audit=policy.audit,\n",
        "                audit=False,\n",
    ),
    Mutant(
        "fromRequires ignored",
        _BIND,
        "endpoints = tuple(selector.also(*extra) for selector in self.endpoints)",
        "endpoints = self.endpoints",
    ),
    Mutant(
        "fromRequires narrows denies",
        _RESOLVE,
        "narrows = selectors and entry.action is Action.ALLOW and entry.tier is Tier.NORMAL",
        "narrows = selectors",
    ),
    Mutant(
        "audited policies lock",
        _LOCKING,
        "side = audited if rule.policy.audit else enforced",
        "side = enforced",
    ),
    Mutant(
        "audited policies never deny by default",
        _LOCKING,
        "side = audited if rule.policy.audit else enforced",
        "side = {d: set[Origin]() for d in Direction} if rule.policy.audit else enforced",
    ),
    Mutant(
        "init not locked",
        _LOCKING,
        "if kind is SubjectKind.INIT:",
        "if False:",
    ),
    Mutant(
        "mode always locks ingress only",
        _LOCKING,
        "if settings.mode is EnforcementMode.ALWAYS:",
        "if settings.mode is EnforcementMode.ALWAYS and direction is Direction.INGRESS:",
    ),
    Mutant(
        "mode never enforces denies",
        _LOCKING,
        "return settings.mode is EnforcementMode.NEVER or kind is SubjectKind.HOST_IDENTITY",
        "return kind is SubjectKind.HOST_IDENTITY",
    ),
    Mutant(
        "the local host never gets in",
        _RESOLVE,
        "    if frame.localhost is not None:\n",
        "    if False:\n",
    ),
    Mutant(
        "allowLocalhost ignored",
        _RESOLVE,
        "if kind is SubjectKind.HOST or not settings.allow_localhost or",
        "if kind is SubjectKind.HOST or",
    ),
    Mutant(
        "named port of any identity",
        _EXPANSION,
        "    return ((number, ports[number]) for number in numbers if number in ports)",
        "    return ((number, port) for number in numbers for port in ports.values())",
    ),
    Mutant(
        "pods that disagree about a port name keep one",
        _NAMES,
        "return found.pop() if len(found) == 1 else None",
        "return min(found, default=None)",
    ),
    Mutant(
        "rules of nodes select pods",
        "services/policy/resolution/rulebook.py",
        "self._nodes.keep(rule.subject) if rule.of_nodes else self._identities.keep(rule.subject)",
        "self._identities.keep(rule.subject)",
    ),
    Mutant(
        "a change of identities does not reach peers",
        _SHARED,
        "self._stale_peers |= self._peers_by_selector.get(selector, frozenset())",
        "self._stale_peers |= set()",
    ),
    Mutant(
        "a change of port names does not reach peers",
        _SHARED,
        "self._stale |= self._by_port_name.get(name, _NONE)",
        "self._stale |= _NONE",
    ),
    Mutant(
        "a released entry stays in its queue of port names",
        _SHARED,
        "            _discard(self._by_port_name, name, number)\n",
        "            self._by_port_name[name] = set(self._by_port_name)  # type: ignore[arg-type]\n",
    ),
    Mutant(
        "a service that goes is kept",
        "services/policy/resolution/engine.py",
        "        if self._services.pop((namespace, name), None) is not None:\n            self._rebind",
        "        if self._services.get((namespace, name)) is None:\n            self._rebind",
    ),
    Mutant(
        "a group that changes is not bound again",
        "services/policy/resolution/engine.py",
        "self._cidr_groups[group.key] = group\n"
        "            self._rebind(cidr_group_reference(group.key.name), ANY_CIDR_GROUP)",
        "self._cidr_groups[group.key] = group",
    ),
)
