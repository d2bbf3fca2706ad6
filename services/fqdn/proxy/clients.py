"""Client addresses and what each of them has in use."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Client:
    """A pod's address. `users`: its UDP paths and TCP connections; without any it is forgotten."""

    address: str
    users: int = 0
    in_flight: int = 0
    connections: int = 0


@dataclass(slots=True)
class Clients:
    """Clients by address."""

    by_address: dict[str, Client] = field(default_factory=dict)

    def join(self, address: str) -> Client:
        """One more user of this address."""
        client = self.by_address.get(address)
        if client is None:
            client = self.by_address[address] = Client(address)
        client.users += 1
        return client

    def leave(self, client: Client) -> None:
        client.users -= 1
        if not client.users:
            del self.by_address[client.address]
