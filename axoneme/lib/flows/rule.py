"""What a rule of a filter field is: values of the field in, a predicate over `flow.Flow` out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from axoneme.api.hubble.flow import flow_pb2

Predicate = Callable[[flow_pb2.Flow], bool]
Rule = Callable[[str, Any], Predicate]
"""Takes where the field stands in the request, for errors, and its value: a sequence of alternatives, or one
message."""
Side = Literal["source", "destination"]
