"""What the readers of a rule need to know of the object around it."""

from __future__ import annotations

from dataclasses import dataclass

from axoneme.lib.policy.model import Direction
from axoneme.lib.selectors import LabelSelector
from services.policy.reading.fields import Fields
from services.policy.scope import scope_clusterwide_peer, scope_peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The object (`namespace` is empty for a cluster-wide one), the subject of the rule, and the section.

    `about_init`: the subject mentions `reserved:init`. `of_nodes`: the subjects are nodes.
    `audit`: the object is only tried out.
    """

    fields: Fields
    namespace: str = ""
    about_init: bool = False
    of_nodes: bool = False
    audit: bool = False
    direction: Direction = Direction.INGRESS
    deny: bool = False

    @property
    def side(self) -> str:
        """How keys that name peers begin."""
        return "from" if self.direction is Direction.INGRESS else "to"

    def scoped(self, selector: LabelSelector) -> LabelSelector:
        """The peers that a selector written in this object means."""
        if self.namespace:
            return scope_peer(selector, self.namespace)
        return scope_clusterwide_peer(selector, subject_about_init=self.about_init)
