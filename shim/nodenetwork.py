"""Has the node's network made as configured, says what it became, and looks after it.

A network that cannot be made keeps nothing else from working: it is tried again, and told as a problem.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from shim.datapath import Datapath
from shim.network import NetworkFacts, NetworkSettings

logger = logging.getLogger(__name__)


class NodeNetwork:
    """Devices and programs of the node itself."""

    def __init__(
        self, datapath: Datapath, settings: NetworkSettings, on_facts: Callable[[NetworkFacts], None]
    ) -> None:
        self.facts: NetworkFacts | None = None
        self._datapath, self._settings, self._on_facts = datapath, settings, on_facts
        self._problem = "the node's network is not set up yet"

    async def bring_up(self) -> None:
        """Makes the network; a failure is left to `retry`."""
        try:
            await self._make()
        except AxonemeError as error:
            self._problem = f"the node's network cannot be set up: {error.message}; it is tried again"
            logger.warning("network not set up", extra={log.ERROR: log.clip(error)})

    async def retry(self) -> None:
        """Tries again what failed."""
        if self._problem:
            await self.bring_up()

    async def audit(self) -> list[str]:
        """Makes again what somebody took away; returns what differed. Raises AxonemeError."""
        before = self.facts
        await self._make()
        return differences(before, self.facts)

    def problems(self) -> list[str]:
        """What was asked for and is not there, in words."""
        found = [self._problem] if self._problem else []
        missing = self.facts.missing if self.facts is not None else {}
        found += [f"{name} is switched on, but is not there: {why}" for name, why in sorted(missing.items())]
        return found

    async def _make(self) -> None:
        facts = await self._datapath.set_up_network(self._settings)
        self._problem = ""
        before, self.facts = self.facts, facts
        if facts != before:
            self._on_facts(facts)


def differences(before: NetworkFacts | None, after: NetworkFacts | None) -> list[str]:
    """What an audit found, as `network: fact: what`; a first network is nothing that was repaired."""
    if before is None or after is None:
        return []
    # What is attached changes with every endpoint; what was missing of it is in `repaired`.
    names = [one.name for one in fields(NetworkFacts) if one.compare and one.name != "attached"]
    return [f"network: {program}: missing, attached again" for program in after.repaired] + [
        f"network: {name}: was {getattr(before, name)}, is {getattr(after, name)}"
        for name in names
        if getattr(before, name) != getattr(after, name)
    ]
