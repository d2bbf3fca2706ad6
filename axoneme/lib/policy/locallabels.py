"""Labels of identities that only one node knows: a prefix, and DNS selectors that it was learned for.

The shim gives the numbers, the DNS proxy reads them from its table; both match selectors against these.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final

from axoneme.lib import identities
from axoneme.lib.labels import FQDN, Label, LabelSet
from axoneme.lib.policy.cidrlabels import cidr_label

WORLDS: Final = {4: identities.WORLD_IPV4, 6: identities.WORLD_IPV6}  # by IP version


def local_labels(prefix: str, names: Collection[str] = ()) -> LabelSet:
    """The labels of a prefix (/0 is the world of its family) and texts of DNS selectors.

    Raises ValueError for a text that is no prefix.
    """
    network = ipaddress.ip_network(prefix)
    labels = [*identities.RESERVED[WORLDS[network.version]][1]]
    if network.prefixlen:
        labels.append(cidr_label(prefix))
    labels += [Label(FQDN, name, "") for name in names]
    # Not LabelSet.of: its limits are for what etcd stores, and an address may have any number of names.
    return LabelSet(tuple(sorted(labels, key=lambda label: label.key)))
