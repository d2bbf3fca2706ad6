"""Has the node's network made as configured, says what it became, and looks after it.

A network that cannot be made keeps nothing else from working: it is tried again, and told as a problem.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from shim.datapath import Datapath
from shim.neededfeatures import lacking
from shim.network import NetworkFacts, NetworkSettings

logger = logging.getLogger(__name__)


class NodeNetwork:
    """Devices and programs of the node itself."""

    def __init__(
        self, datapath: Datapath, settings: NetworkSettings, on_facts: Callable[[NetworkFacts], None]
    ) -> None:
        self.facts: NetworkFacts | None = None
        self._datapath, self._settings, self._on_facts = datapath, settings, on_facts
        self._features: Mapping[str, str] = {}
        self._problem = "the node's network is not set up yet"

    def set_features(self, features: Mapping[str, str]) -> None:
        """What the kernel can do, `yes` or why not."""
        self._features = features

    async def bring_up(self) -> None:
        """Makes the network; a failure is left to `retry`."""
        try:
            await self._make()
        except AxonemeError as error:
            self._problem = f"the node's network cannot be set up: {error.message}; it is tried again"
            logger.warning("network not set up", extra={log.ERROR: log.clip(error)})

    async def retry(self) -> bool:
        """Tries again what failed; whether that made the network."""
        if not self._problem:
            return False
        await self.bring_up()
        return not self._problem

    async def audit(self) -> list[str]:
        """Makes again what somebody took away; returns what differed. Raises AxonemeError."""
        before = self.facts
        await self._make()
        return differences(before, self.facts)

    def problems(self) -> list[str]:
        """What was asked for and is not there, in words."""
        found = [self._problem] if self._problem else []
        facts = self.facts or NetworkFacts()
        explained = lacking(self._settings, self._features, attached_parts(facts))
        parts = {need.part for need in explained}
        found += [
            f"{name} is switched on, but is not there: {why}"
            for name, why in sorted(facts.missing.items())
            if name not in parts
        ]
        return found + list(explained.values())

    async def _make(self) -> None:
        facts = await self._datapath.set_up_network(self._settings)
        self._problem = ""
        before, self.facts = self.facts, facts
        if facts != before:
            self._on_facts(facts)


def attached_parts(facts: NetworkFacts) -> set[str]:
    """What carries its programs, by the names of `NetworkFacts.missing`."""
    there = {*facts.attached} - facts.missing.keys()
    return there | ({"netdev"} if "uplink" in there and "netdev" not in facts.missing else set())


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
