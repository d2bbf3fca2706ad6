"""Agent events of services: a frontend leads to other backends from now on, or is gone."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Final

from axoneme.api.hubble.flow import flow_pb2
from shim.agentevents.log import AgentEventLog
from shim.lb.balancer import LoadBalancer
from shim.lb.model import Frontend, Owner, Service
from shim.lb.naming import kind_of
from shim.lb.plan import Answer, Plan
from shim.maps.base import address_from_bytes

_POLICIES: Final = {False: "Cluster", True: "Local"}
Frontends = dict[Frontend, Answer]


class ServiceEvents:
    """Hears of each service that is in the kernel from now on. Frontends get numbers, which the API wants."""

    def __init__(self, log: AgentEventLog, balancer: LoadBalancer) -> None:
        self._log = log
        self._numbers = count(1)
        self._ids: dict[Frontend, int] = {}
        self._known: dict[str, tuple[Service, Frontends]] = {}
        balancer.on_applied = self._applied

    def _applied(self, key: str, owner: Owner | None, plan: Plan) -> None:
        """An owner is in effect as planned; None when it is gone."""
        if owner is not None and not isinstance(owner, Service):
            return
        _, before = self._known.pop(key, (None, {}))
        after = dict(plan.frontends) if owner is not None else {}
        for frontend in before.keys() - after.keys():
            number = self._ids.pop(frontend, 0)
            self._log.add(partial(deleted, number))
        if owner is None:
            return
        self._known[key] = owner, after
        for frontend, answer in after.items():
            if before.get(frontend) != answer:
                self._log.add(partial(upserted, self._number(frontend), owner, frontend, answer))

    def _number(self, frontend: Frontend) -> int:
        if frontend not in self._ids:
            self._ids[frontend] = next(self._numbers)
        return self._ids[frontend]


def upserted(number: int, service: Service, frontend: Frontend, answer: Answer) -> flow_pb2.AgentEvent:
    """A frontend with its backends."""
    upsert = flow_pb2.ServiceUpsertNotification(
        id=number,
        frontend_address=_place(frontend.address, frontend.port),
        backend_addresses=[_place(one.address, one.port) for one in answer.backends.targets],
        type=kind_of(service, frontend.address),
        name=service.name,
        namespace=service.namespace,
        ext_traffic_policy=_POLICIES[service.external_local],
        int_traffic_policy=_POLICIES[service.internal_local],
    )
    return flow_pb2.AgentEvent(type=flow_pb2.SERVICE_UPSERTED, service_upsert=upsert)


def deleted(number: int) -> flow_pb2.AgentEvent:
    """A frontend is gone."""
    gone = flow_pb2.ServiceDeleteNotification(id=number)
    return flow_pb2.AgentEvent(type=flow_pb2.SERVICE_DELETED, service_delete=gone)


def _place(address: bytes, port: int) -> flow_pb2.ServiceUpsertNotificationAddr:
    return flow_pb2.ServiceUpsertNotificationAddr(ip=str(address_from_bytes(address)), port=port)
