"""Mistakes in the algebra that nodes, service and tests share: precedence, coverage, ports, references."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_PRECEDENCE = "axoneme/lib/policy/precedence.py"
_PORTS = "axoneme/lib/policy/ports.py"
_TREE = "axoneme/lib/policy/tree.py"
_FLAT = "axoneme/lib/policy/flat.py"
_REGION = "axoneme/lib/policy/region.py"
_GROUPING = "axoneme/lib/policy/grouping.py"
_FINISH = "axoneme/lib/policy/finish.py"
_SELECTION = "axoneme/lib/policy/selection.py"
_LABELS = "axoneme/lib/policy/cidrlabels.py"
_OUTSIDE = "axoneme/lib/policy/outside.py"
_HOLDERS = "axoneme/lib/policy/holders.py"
_MAPSTATE = "axoneme/lib/policy/mapstate.py"

ALGEBRA = (
    Mutant(
        "allow beats deny",
        _PRECEDENCE,
        "_DENY: Final = 255\n_ALLOW: Final = 1\n",
        "_DENY: Final = 254\n_ALLOW: Final = 255\n",
    ),
    Mutant("allow beats redirect", _PRECEDENCE, "_ALLOW: Final = 1\n", "_ALLOW: Final = 254\n"),
    Mutant(
        "weaker redirects win",
        _PRECEDENCE,
        "return _DENY - redirect_priority",
        "return 127 + redirect_priority",
    ),
    Mutant(
        "the lowest tier wins",
        _PRECEDENCE,
        "return (_MAX_LEVEL - (tier << 20 | priority)) << 8 |",
        "return (_MAX_LEVEL - (2 - min(tier, 2) << 20 | priority)) << 8 |",
    ),
    Mutant(
        "the highest priority number wins",
        _PRECEDENCE,
        "return (_MAX_LEVEL - (tier << 20 | priority)) << 8 |",
        "return (_MAX_LEVEL - (tier << 20 | MAX_PRIORITY - priority)) << 8 |",
    ),
    Mutant(
        "priorities within a tier ignored",
        _PRECEDENCE,
        "return (_MAX_LEVEL - (tier << 20 | priority)) << 8 |",
        "return (_MAX_LEVEL - (tier << 20)) << 8 |",
    ),
    Mutant(
        "ranges lose their last block",
        _PORTS,
        "    while first <= last:\n",
        "    while first < last:\n",
    ),
    Mutant(
        "blocks of a range reach beyond it",
        _PORTS,
        "while first + (1 << bits) - 1 > last:",
        "while first + (1 << bits) - 2 > last:",
    ),
    Mutant(
        "entries for every protocol cover nothing narrower",
        _PORTS,
        "        yield ANY_PORT\n",
        "",
    ),
    Mutant(
        "any port of a protocol covers other protocols",
        _PORTS,
        "            self.protocol == other.protocol\n            and self.prefix_length",
        "            self.prefix_length",
    ),
    Mutant(
        "a weaker wide entry covers",
        _TREE,
        "if not (wide and self._word_of_every_peer(block) >= entry.precedence)",
        "if not (wide and self._word_of_every_peer(block) >= 0)",
    ),
    Mutant(
        "default allow forgotten",
        _TREE,
        "if enforcement is Enforcement.DEFAULT_ALLOW:",
        "if False:",
    ),
    Mutant(
        "the first of several parts of a block wins",
        _TREE,
        "present is None or present.precedence < part.precedence",
        "present is None",
    ),
    Mutant(
        "origins of equally strong parts lost",
        _TREE,
        "elif present.precedence == part.precedence and not part.origins <= present.origins:",
        "elif False:",
    ),
    Mutant(
        "pass ends evaluation",
        _REGION,
        "        passed = tier\n",
        "        break\n",
    ),
    Mutant(
        "pass skips its own level only",
        _REGION,
        "        if tier == passed:\n",
        "        if False:\n",
    ),
    Mutant(
        "audit allow widens",
        _REGION,
        "enforced = _decided(real, self.enforced)",
        "enforced = _decided(matches, self.enforced)",
    ),
    Mutant(
        "audited denies are silent",
        _REGION,
        "        if audited.action is Action.DENY:\n",
        "        if False:\n",
    ),
    Mutant(
        "audited denies drop",
        _REGION,
        "return audited._replace(audit=True)",
        "return audited",
    ),
    Mutant(
        "authentication not inherited",
        _REGION,
        "return max(own or wider, default=None)",
        "return max(own, default=None)",
    ),
    Mutant(
        "explicit authentication does not stop inheritance",
        _REGION,
        "return max(own or wider, default=None)",
        "return max(own + wider, default=None)",
    ),
    Mutant(
        "the laxest authentication is inherited",
        _REGION,
        "return max(own or wider, default=None)",
        "return min(own or wider, default=None)",
    ),
    Mutant(
        "a pass is not special",
        _GROUPING,
        "if part.audit or part.auth is not None or part.action is Action.PASS:",
        "if part.audit or part.auth is not None:",
    ),
    Mutant(
        "authentication is not special",
        _GROUPING,
        "if part.audit or part.auth is not None or part.action is Action.PASS:",
        "if part.audit or part.action is Action.PASS:",
    ),
    Mutant(
        "port names of ingress that nothing defines match every port",
        _GROUPING,
        "        if number is not None:\n            yield _part(",
        "        if number is None:\n            yield _part(part, PortBlock(part.ports.protocol, 0, 0))\n"
        "        else:\n            yield _part(",
    ),
    Mutant(
        "identities do not repeat what holds for every peer",
        _FLAT,
        "tier=Tier.NORMAL if of_identity else Tier.LAST,",
        "tier=Tier.LAST,",
    ),
    Mutant(
        "selector references select nobody",
        _FINISH,
        "                for number in selected[peer.key]:\n",
        "                for number in ():\n",
    ),
    Mutant(
        "identities with other parts share a tree",
        _FINISH,
        "        candidates = tuple(indexes)\n",
        "        candidates = tuple(indexes[:1])\n",
    ),
    Mutant(
        "exceptions of prefixes ignored",
        _SELECTION,
        " and not any(\n            map(self._exclude.hold, prefixes_of(labels))\n        )",
        "",
    ),
    Mutant(
        "host matched in CIDR",
        _SELECTION,
        "        if outside(labels):\n            return self._include.hold(network)\n",
        "        if True:\n            return self._include.hold(network)\n",
    ),
    Mutant(
        "the widest prefix selects nodes",
        _SELECTION,
        "for one in include if definition.nodes and one.prefixlen > 0",
        "for one in include if definition.nodes",
    ),
    Mutant(
        "nodes in prefixes never selected",
        _SELECTION,
        "return self._include_nodes.hold(network) and _is_node(labels)",
        "return False",
    ),
    Mutant(
        "a wider prefix lies inside a narrower one",
        _SELECTION,
        "            length <= network.prefixlen and address",
        "            address",
    ),
    Mutant(
        "only the first alternative of a definition counts",
        _SELECTION,
        "any(one.matches(labels) for one in definition.alternatives)",
        "any(one.matches(labels) for one in definition.alternatives[:1])",
    ),
    Mutant(
        "one DNS name is every name",
        _SELECTION,
        "one.source == FQDN and one.key == definition.text for one in labels",
        "one.source == FQDN for one in labels",
    ),
    Mutant(
        "an address has the widest prefix that holds it",
        _OUTSIDE,
        "sorted(found, reverse=True)",
        "sorted(found)",
    ),
    Mutant(
        "exceptions are not named prefixes",
        _OUTSIDE,
        "for prefix in (*definition.include, *definition.exclude)",
        "for prefix in definition.include",
    ),
    Mutant(
        "the external API server is only outside",
        _OUTSIDE,
        "    if kube_apiserver:\n",
        "    if False:\n",
    ),
    Mutant(
        "names of the world hold no addresses",
        _LABELS,
        '    "world-ipv6": (_EVERY_IPV6,),\n',
        "",
    ),
    Mutant(
        "a star of DNS patterns crosses dots",
        "axoneme/lib/dnsnames.py",
        '_IN_LABEL: Final = "[-a-z0-9_]*"',
        '_IN_LABEL: Final = "[-a-z0-9_.]*"',
    ),
    Mutant(
        "whole labels of DNS patterns may be none",
        "axoneme/lib/dnsnames.py",
        'r"(?:[-a-z0-9_]+\\.)+"',
        'r"(?:[-a-z0-9_]+\\.)*"',
    ),
    Mutant(
        "an identity that goes keeps its selections",
        _MAPSTATE,
        "after = before.difference(gone, changed) | joining",
        "after = before.difference(changed) | joining",
    ),
    Mutant(
        "an identity with other labels keeps its selections",
        _MAPSTATE,
        "after = before.difference(gone, changed) | joining",
        "after = before.difference(gone) | joining",
    ),
    Mutant(
        "trees are kept when the default of a direction changes",
        _MAPSTATE,
        "if self._side is None or made_of != self._made_of:",
        "if self._side is None:",
    ),
    Mutant(
        "a contribution that goes stays in the map",
        _HOLDERS,
        "        for numbers, change in ((gone, _without), (come, _with)):\n",
        "        for numbers, change in (((), _without), (come, _with)):\n",
    ),
)
