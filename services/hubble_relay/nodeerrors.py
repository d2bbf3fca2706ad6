"""Collects errors of nodes, so that one cause that hits many nodes is told once. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

WINDOW_SECONDS = 10.0


@dataclass(slots=True)
class _Group:
    since: float
    names: dict[str, None] = field(default_factory=dict)


class NodeErrors:
    """Messages with the nodes that reported them; a message is due when its window is over."""

    def __init__(self, window_seconds: float = WINDOW_SECONDS) -> None:
        self._window_seconds = window_seconds
        self._group_by_message: dict[str, _Group] = {}

    def add(self, name: str, message: str, now: float) -> None:
        """Takes an error of one node."""
        self._group_by_message.setdefault(message, _Group(now)).names[name] = None

    def due(self, now: float) -> list[tuple[str, list[str]]]:
        """Returns (message, node names) whose window is over, and forgets them."""
        messages = [
            message
            for message, group in self._group_by_message.items()
            if now - group.since >= self._window_seconds
        ]
        return [(message, list(self._group_by_message.pop(message).names)) for message in messages]

    def drain(self) -> list[tuple[str, list[str]]]:
        """Returns all, and forgets them."""
        groups, self._group_by_message = self._group_by_message, {}
        return [(message, list(group.names)) for message, group in groups.items()]
