"""What a node's kernel can do, by the names that the helper's probe gives: `yes`, or the reason why not."""

from __future__ import annotations

from collections.abc import Mapping

from axoneme.lib.errors import FailedPrecondition

PRESENT = "yes"


class FeatureMissing(FailedPrecondition):
    """The kernel of the node cannot do what was asked for; another kernel can."""

    default_reason = "FEATURE_MISSING"


def has(features: Mapping[str, str], name: str) -> bool:
    """Whether the probe found a feature; False while nothing is known of it."""
    return features.get(name) == PRESENT


def require(features: Mapping[str, str], name: str, for_what: str) -> None:
    """Raises FeatureMissing that says what needs the feature; `for_what` begins a sentence.

    >>> require({"maglev": "no"}, "maglev", "service default/web with Maglev")
    Traceback (most recent call last):
    shim.features.FeatureMissing: service default/web with Maglev needs maglev, which this node lacks (no)
    """
    found = features.get(name, "it was not probed")
    if found != PRESENT:
        raise FeatureMissing(f"{for_what} needs {name}, which this node lacks ({found})")
