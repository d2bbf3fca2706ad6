"""Names to begin with: a file as `axoneme fqdn cache list -o json` prints it."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

from axoneme.lib import log
from axoneme.lib.dns.wire import Answer, Question, wire_of
from services.fqdn.learner import MAX_TTL, NameLearner

logger = logging.getLogger(__name__)

_QTYPE: Final = {4: 1, 16: 28}


def load(path: Path, learner: NameLearner, endpoints: Collection[int], wall: Callable[[], float]) -> int:
    """Takes over what has not expired, for endpoints of this node; how many addresses. Never raises."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content if isinstance(content, list) else content["entries"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("pre-cache not read", extra={log.PATH: str(path), log.ERROR: log.clip(error)})
        return 0
    count = 0
    for entry in entries:
        try:
            for endpoint_id, question, answer in _parsed(entry, wall()):
                if endpoint_id in endpoints and learner.report(endpoint_id, question, answer):
                    count += len(answer.addresses)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("entry of the pre-cache not understood", extra={log.ERROR: log.clip(error)})
    return count


def _parsed(entry: Any, now: float) -> Iterator[tuple[int, Question, Answer]]:
    """One answer for each address, for each may expire at another time. Raises ValueError and the like."""
    name = wire_of(entry["name"])
    for one in entry["addresses"]:
        left = dt.datetime.fromisoformat(one["expires"]).timestamp() - now
        address = ipaddress.ip_address(one["address"]).packed
        if left > 0:
            question = Question(name, _QTYPE[len(address)], 1, 0)
            answer = Answer(
                rcode=0,
                truncated=False,
                addresses=(address,),
                ttl=min(int(left), MAX_TTL),
                cnames=(),
                rrtypes=(question.qtype,),
                usable=True,
            )
            yield int(entry["endpoint_id"]), question, answer
