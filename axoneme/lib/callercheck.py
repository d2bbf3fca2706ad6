"""Who calls a server: by certificate on TCP, as local root on unix sockets.

The certificates of the listeners are followed here, so that a caller always passes under a CA of now.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence

from cryptography import x509

from axoneme.lib import edge
from axoneme.lib.edge import Context
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.listeners import Listener
from axoneme.lib.peercert import PeerCheck
from axoneme.lib.roles import LOCAL_ADMIN, Role, check_trust_domain
from axoneme.lib.tls import ServerCertificates


def listener_certificates(listeners: Sequence[Listener]) -> dict[Listener, ServerCertificates]:
    """The followed files of each TCP listener. Raises InvalidArgument, TlsFilesInvalid."""
    found = {}
    for listener in listeners:
        if listener.path is None:
            if listener.tls is None:
                raise InvalidArgument.of_field("listen_address", f"{listener.address} needs certificates")
            check_trust_domain(listener.trust_domain)
            found[listener] = ServerCertificates(listener.tls)
    if len({(listener.trust_domain, listener.name_roles) for listener in found}) > 1:
        raise InvalidArgument.of_field("listeners", "all TCP listeners of a server share one trust domain")
    return found


def authentication(
    listeners: Sequence[Listener],
    certificates: Mapping[Listener, ServerCertificates],
    now: Callable[[], dt.datetime],
    denied: Callable[[], Collection[str]],
) -> edge.Authenticate:
    """Certificates on TCP, local root on unix sockets. A caller must pass under a CA that is trusted now."""
    local = LOCAL_ADMIN if any(listener.path for listener in listeners) else None
    if not certificates:
        return edge.TlsAuthentication(None, local)
    first = next(iter(certificates))
    check = PeerCheck(first.trust_domain, first.name_roles)
    authorities = _Authorities(list(certificates.values()))

    def by_certificate(context: Context) -> Role:
        return check.role(
            context.auth_context(),
            now=now(),
            authorities=authorities.current(),
            generation=authorities.generation,
            denied=denied(),
        )

    return edge.TlsAuthentication(by_certificate, local)


class _Authorities:
    """The parsed CA bundles of all listeners, parsed again when one changes."""

    def __init__(self, certificates: Sequence[ServerCertificates]) -> None:
        self._certificates = certificates
        self._parsed: list[x509.Certificate] = []
        self.generation = -1

    def current(self) -> list[x509.Certificate]:
        generation = sum(item.generation for item in self._certificates)
        if generation != self.generation:
            self._parsed = [ca for item in self._certificates for ca in item.material.authorities()]
            self.generation = generation
        return self._parsed
