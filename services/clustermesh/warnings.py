"""What is allowed in a service and probably not meant. Pure."""

from __future__ import annotations

from typing import Final

from axoneme.lib.labels import security_relevant
from services.clustermesh.model import Service, ServiceType, family
from services.clustermesh.view import View

_SHOWN: Final = 5


def warnings_of(view: View) -> list[str]:
    """Sentences for whoever applies a service."""
    service = view.service
    found = [*_source_warnings(service), *_family_warnings(service)]
    if service.selector and not view.backends and not found:
        found.append("no workload has the labels of the selector now; packets to the service are dropped")
    if view.unnamed:
        text = "workload has" if view.unnamed == 1 else "workloads have"
        found.append(f"{view.unnamed} {text} no port of a name that the service asks for")
    if service.type is ServiceType.LOAD_BALANCER and not service.load_balancer_ips:
        found.append("the service has no load_balancer_ips: it is reached by its cluster IPs and node ports")
    return found


def _source_warnings(service: Service) -> list[str]:
    if service.selector is None and service.addresses is None:
        return ["the service has no source of backends: packets to it are dropped"]
    return [
        f"the label {key} is not part of an identity, so the selector matches no workload"
        for key, _ in service.selector or ()
        if not security_relevant(key)
    ]


def _family_warnings(service: Service) -> list[str]:
    families = service.families
    lost = [one.ip for one in service.addresses or () if family(one.ip) not in families]
    if not lost:
        return []
    more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
    text = f"the service has no address of the family of backend {', '.join(lost[:_SHOWN])}{more}"
    return [f"{text}: nothing is sent there"]
