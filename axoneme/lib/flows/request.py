"""From selector flags to a GetFlowsRequest, and the same selection over responses that lie in a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.flows.times import parse_time

if TYPE_CHECKING:
    from axoneme.lib.flows.filters import FlowMatcher

DEFAULT_NUMBER: Final = 20
ALL: Final = 2**64 - 1
Filter = flow_pb2.FlowFilter
Response = observer_pb2.GetFlowsResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Selectors:
    """Which part of the flows is wanted."""

    last: int | None = None
    first: int | None = None
    take_all: bool = False
    follow: bool = False
    since: str | None = None
    until: str | None = None

    def check(self, output: str) -> None:
        """Raises InvalidArgument for flags that cannot be combined."""
        pairs = (
            (self.first is not None and self.last is not None, "--first", "--last"),
            (self.first is not None and self.take_all, "--first", "--all"),
            (self.first is not None and self.follow, "--first", "--follow"),
            (self.last is not None and self.take_all, "--last", "--all"),
        )
        for both, one, other in pairs:
            if both:
                raise InvalidArgument(f"{one} and {other} cannot be combined")
        if self.follow and output in ("table", "tab"):
            raise InvalidArgument("table output cannot be combined with --follow; use -o compact")

    @property
    def is_plain(self) -> bool:
        """Whether nothing was selected, which means the default number."""
        chosen = (self.last, self.first, self.since, self.until)
        return all(one is None for one in chosen) and not self.take_all and not self.follow


def make_request(
    selectors: Selectors,
    whitelist: Iterable[Filter],
    blacklist: Iterable[Filter],
    *,
    now_ns: int,
    field_mask: Iterable[str] = (),
) -> observer_pb2.GetFlowsRequest:
    """The request; `until` is dropped when following, and no mask asks for whole flows."""
    request = observer_pb2.GetFlowsRequest(
        follow=selectors.follow, first=selectors.first is not None, whitelist=whitelist, blacklist=blacklist
    )
    if paths := list(field_mask):
        request.field_mask.paths.extend(paths)
    if selectors.take_all:
        request.number = ALL
    else:
        chosen = selectors.last if selectors.last is not None else selectors.first
        request.number = chosen if chosen is not None else DEFAULT_NUMBER if selectors.is_plain else 0
    if selectors.since is not None:
        request.since.CopyFrom(parse_time(selectors.since, "since", now_ns))
    if selectors.until is not None and not selectors.follow:
        request.until.CopyFrom(parse_time(selectors.until, "until", now_ns))
    return request


def select_responses(
    responses: Iterable[Response], request: observer_pb2.GetFlowsRequest, *, everything: bool
) -> Iterator[Response]:
    """What a server would answer from these responses; `everything` ignores the number."""
    from axoneme.lib.flows.filters import FlowMatcher  # loads what queries of a server do without

    matcher = FlowMatcher(request.whitelist, request.blacklist)
    matching = (response for response in responses if _wanted(response, request, matcher))
    number = 0 if everything else request.number
    if number in (0, ALL):
        yield from matching
    elif request.first:
        yield from islice(matching, number)
    else:
        yield from deque(matching, maxlen=min(number, 2**31))


def _wanted(response: Response, request: observer_pb2.GetFlowsRequest, matcher: FlowMatcher) -> bool:
    if response.HasField("flow") and not matcher.matches(response.flow):
        return False
    time_ns = response.time.ToNanoseconds()
    if request.HasField("since") and time_ns < request.since.ToNanoseconds():
        return False
    return not (request.HasField("until") and time_ns > request.until.ToNanoseconds())
