"""Who stands behind the entities that rules may name: numbers, selectors, and what nodes must resolve.

The table of facts (R-23 to R-25) in one place. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from axoneme.lib import identities
from axoneme.lib.labels import CLUSTER_KEY, K8S, RESERVED
from axoneme.lib.policy.model import Entity, EntitySelector, LabelsDefinition, SelectorDefinition
from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from services.policy.inputs import PolicySettings
from services.policy.rules import EntityName
from services.policy.scope import in_cluster


def carrying(name: str) -> LabelSelector:
    """Whoever carries a reserved label."""
    return LabelSelector((Requirement(RESERVED, name, Operator.EXISTS),))


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityMembers:
    """`numbers` and `selectors` are cluster-wide; `definition` is for identities that only a node knows."""

    numbers: frozenset[int] = frozenset()
    selectors: tuple[LabelSelector, ...] = ()
    definition: SelectorDefinition | None = None


_NOBODY: Final = EntityMembers()
_DUAL: Final = frozenset({"ipv4", "ipv6"})
_REMOTE: Final = LabelsDefinition((carrying("remote-node"),))
_API_SERVER: Final = LabelsDefinition((carrying("kube-apiserver"),))
_OF_CLUSTER: Final = LabelsDefinition((carrying("kube-apiserver"), carrying("remote-node")))
# Members of the entity `cluster` beside the pods of the local cluster; never unmanaged, which is what an
# address reads as before its identity is known (ADR 0009).
CLUSTER_NUMBERS: Final = frozenset(
    {
        identities.HOST,
        identities.REMOTE_NODE,
        identities.INIT,
        identities.INGRESS,
        identities.HEALTH,
        identities.KUBE_APISERVER,
    }
)
_ANY_CLUSTER: Final = LabelSelector((Requirement(K8S, CLUSTER_KEY, Operator.EXISTS),))
_FIXED: Final = {
    EntityName.WORLD: EntityMembers(definition=EntitySelector(Entity.WORLD)),
    EntityName.HOST: EntityMembers(numbers=frozenset({identities.HOST})),
    EntityName.HEALTH: EntityMembers(numbers=frozenset({identities.HEALTH})),
    EntityName.INIT: EntityMembers(numbers=frozenset({identities.INIT})),
    EntityName.UNMANAGED: EntityMembers(numbers=frozenset({identities.UNMANAGED})),
    EntityName.INGRESS: EntityMembers(numbers=frozenset({identities.INGRESS})),
    EntityName.REMOTE_NODE: EntityMembers(
        numbers=frozenset({identities.REMOTE_NODE, identities.KUBE_APISERVER}), definition=_REMOTE
    ),
    EntityName.KUBE_APISERVER: EntityMembers(
        numbers=frozenset({identities.KUBE_APISERVER}), definition=_API_SERVER
    ),
    EntityName.CLUSTER_MESH: EntityMembers(
        numbers=CLUSTER_NUMBERS, selectors=(_ANY_CLUSTER,), definition=_OF_CLUSTER
    ),
    EntityName.NONE: _NOBODY,
}


def members_of(entity: EntityName, settings: PolicySettings) -> EntityMembers:
    """The members of an entity; `all` is not one of them, being every peer."""
    if entity in (EntityName.WORLD_IPV4, EntityName.WORLD_IPV6):
        # In a cluster of one family addresses outside carry `world`, never the name of a family.
        dual = settings.families == _DUAL
        return EntityMembers(definition=LabelsDefinition((carrying(entity.value),))) if dual else _NOBODY
    if entity is EntityName.CLUSTER:
        selectors = (LabelSelector((in_cluster(settings.cluster_name),)),)
        return EntityMembers(numbers=CLUSTER_NUMBERS, selectors=selectors, definition=_OF_CLUSTER)
    return _FIXED[entity]
