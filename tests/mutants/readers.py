"""Mistakes in what policies are read as."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_CNP = "services/policy/reading/cnp.py"
_PEERS = "services/policy/reading/peers.py"
_PORTS = "services/policy/reading/ports.py"
_SCOPE = "services/policy/scope.py"
_KNP = "services/policy/reading/networkpolicy.py"
_TIERED = "services/policy/reading/clusternetworkpolicy.py"

READERS = (
    Mutant(
        "empty list of peers read as absent",
        _PEERS,
        "found = [key for key in peer_keys(reading) if key in present]",
        "found = [key for key in peer_keys(reading) if key in present and present[key].items]",
    ),
    Mutant("no peers and no ports means anyone", _PEERS, "Peers(anyone=with_ports)", "Peers(anyone=True)"),
    Mutant("ports without peers mean nobody", _PEERS, "Peers(anyone=with_ports)", "Peers()"),
    Mutant(
        "toPorts ignored",
        _CNP,
        "ports=NO_RESTRICTION if ports is None else ports,",
        "ports=NO_RESTRICTION,",
    ),
    Mutant(
        "deny sections read as allow",
        _CNP,
        "action=Action.DENY if deny else Action.ALLOW,",
        "action=Action.ALLOW,",
    ),
    Mutant(
        "deny only does not lock",
        _CNP,
        "locks = {_SECTIONS[key][0] for key, items in sections.items() if items}",
        "locks = {_SECTIONS[key][0] for key, items in sections.items() if items and not _SECTIONS[key][1]}",
    ),
    Mutant(
        "enableDefaultDeny ignored",
        _CNP,
        "if fields.boolean(child) is False}",
        "if fields.boolean(child) is None}",
    ),
    Mutant(
        "enableDefaultDeny true does not lock",
        _CNP,
        "if fields.boolean(child) is False}",
        "if fields.boolean(child) is not None}",
    ),
    Mutant(
        "specs beside spec ignored",
        _CNP,
        'rules += fields.items(present["specs"])',
        'rules = rules or fields.items(present["specs"])[:1]',
    ),
    Mutant(
        "namespaced subject selects other namespaces",
        _CNP,
        "return scope_subject(selector, namespace) if namespace else selector",
        "return selector",
    ),
    Mutant(
        "subject keeps the namespace that the user wrote",
        _CNP,
        "fields, subject=bool(namespace))",
        "fields, subject=False)",
    ),
    Mutant(
        "init exception of clusterwide peers forgotten",
        _CNP,
        "about_init=_about_init(subject),",
        "about_init=False,",
    ),
    Mutant(
        "strict authentication read as required",
        _CNP,
        '"test-always-fail": AuthMode.ALWAYS_FAIL,',
        '"test-always-fail": AuthMode.REQUIRED,',
    ),
    Mutant(
        "peers of a namespaced policy are those of every namespace",
        _SCOPE,
        "    return selector.also(in_namespace(namespace))\n\n\ndef scope_clusterwide_peer",
        "    return selector.also(in_any_namespace())\n\n\ndef scope_clusterwide_peer",
    ),
    Mutant(
        "clusterwide peers reach the world",
        _SCOPE,
        "        return selector\n    return selector.also(in_any_namespace())",
        "        return selector\n    return selector",
    ),
    Mutant(
        "reserved peers narrowed to the namespace",
        _SCOPE,
        "    if mentions_reserved(selector) or mentions_namespace(selector):\n"
        "        return selector\n    return selector.also(in_namespace",
        "    if mentions_namespace(selector):\n"
        "        return selector\n    return selector.also(in_namespace",
    ),
    Mutant(
        "labels of namespaces do not lift the scope",
        _SCOPE,
        "return requirement.key == NAMESPACE_KEY or requirement.key.startswith(NAMESPACE_LABEL_PREFIX)",
        "return requirement.key == NAMESPACE_KEY",
    ),
    Mutant("endPort ignored", _PORTS, "last = max(self.port, self.last)", "last = self.port"),
    Mutant(
        "endPort below the port is a range",
        _PORTS,
        "last = max(self.port, self.last)",
        "last = self.last or self.port",
    ),
    Mutant(
        "port zero is one port",
        _PORTS,
        "return tuple(PortBlock(number, 0, 0) for number in numbers)",
        "return tuple(PortBlock(number, 0, 16) for number in numbers)",
    ),
    Mutant("any protocol leaves out SCTP", _PORTS, '"ANY": (6, 17, 132)}', '"ANY": (6, 17)}'),
    Mutant("names of ports keep their case", _PORTS, "return text.lower()", "return text"),
    Mutant(
        "ICMP messages of IPv6 read as those of IPv4",
        "services/policy/reading/icmpfields.py",
        '_PROTOCOLS: Final = {"IPv4": 1, "IPv6": 58}',
        '_PROTOCOLS: Final = {"IPv4": 1, "IPv6": 1}',
    ),
    Mutant(
        "except ignored",
        "services/policy/reading/cidrfields.py",
        "return None if cidr is None else CidrPeer(cidr=cidr, excepts=excepts)",
        "return None if cidr is None else CidrPeer(cidr=cidr)",
    ),
    Mutant(
        "except of groups ignored",
        "services/policy/reading/cidrfields.py",
        "return None if name is None else CidrGroupPeer(name=name, excepts=excepts)",
        "return None if name is None else CidrGroupPeer(name=name)",
    ),
    Mutant(
        "NetworkPolicy without from means nobody",
        _KNP,
        "if peers else Peers(anyone=True)",
        "if peers else Peers()",
    ),
    Mutant(
        "NetworkPolicy without ports means none",
        _KNP,
        "if ports else NO_RESTRICTION,",
        "if ports else (),",
    ),
    Mutant(
        "policyTypes ignored",
        _KNP,
        "    if not listed:\n",
        "    if True:\n",
    ),
    Mutant(
        "sections of types that are not listed count",
        _KNP,
        "entries += read if direction in types else []",
        "entries += read",
    ),
    Mutant(
        "peers of a NetworkPolicy are pods of any namespace",
        _KNP,
        'selectors.add(_in(namespace, present["podSelector"], fields))',
        'selectors.add(select_pods(None, present["podSelector"], fields))',
    ),
    Mutant(
        "negative namespace expressions reach the world",
        "services/policy/reading/kubernetesfields.py",
        "    return selector.also(in_any_namespace())",
        "    return selector",
    ),
    Mutant(
        "protocol of a NetworkPolicy port defaults to UDP",
        "services/policy/reading/kubernetesfields.py",
        'return PROTOCOLS["TCP"]',
        'return PROTOCOLS["UDP"]',
    ),
    Mutant(
        "Pass read as Accept",
        _TIERED,
        '_ACCEPT: Final = {"Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}',
        '_ACCEPT: Final = {"Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.ALLOW}',
    ),
    Mutant(
        "baseline read as admin",
        _TIERED,
        '"Baseline": Tier.BASELINE}',
        '"Baseline": Tier.ADMIN}',
    ),
    Mutant(
        "order of tiered rules ignored",
        _TIERED,
        "level * RULES_OF_A_PRIORITY + index, fields)",
        "level * RULES_OF_A_PRIORITY, fields)",
    ),
    Mutant(
        "priority of tiered objects ignored",
        _TIERED,
        "level * RULES_OF_A_PRIORITY + index, fields)",
        "index, fields)",
    ),
    Mutant(
        "ranges of tiered rules are one port",
        "services/policy/reading/tieredports.py",
        "        last = end\n",
        "        last = first\n",
    ),
)
