"""Who calls: a role from the SPIFFE id of a certificate. Pure text work, no certificates here.

Ids are `spiffe://<trust domain>/svc/<name>`, `/node/<name>`, `/user/{reader,admin}/<name>` and
`/peer/<cluster>`. What a role may call is in `methodroles`. Certificates without a URI get a role only
through a configured list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from axoneme.lib.errors import InvalidArgument, Unauthenticated

SERVICE, NODE, USER, PEER = "svc", "node", "user", "peer"
READER, ADMIN = "reader", "admin"
SCHEME = "spiffe://"
MAX_ID_BYTES = 2048

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Role:
    """A caller. `local` marks the root-only unix socket, which means admin of that machine only."""

    kind: str
    name: str
    grade: str = ""
    local: bool = False

    @property
    def key(self) -> str:
        """The row of the method table: svc/<name>, node, user/<grade>, peer or local."""
        if self.local:
            return "local"
        return {SERVICE: f"svc/{self.name}", USER: f"user/{self.grade}"}.get(self.kind, self.kind)

    @property
    def path(self) -> str:
        """Path of the SPIFFE id, such as /user/reader/ann."""
        parts = (self.kind, self.grade, self.name) if self.kind == USER else (self.kind, self.name)
        return "/" + "/".join(parts)

    @property
    def admin(self) -> bool:
        """A user who may change things, or root on the unix socket."""
        return self.kind == USER and self.grade == ADMIN

    def __str__(self) -> str:
        return "local root" if self.local else self.path[1:]


LOCAL_ADMIN = Role(USER, "root", ADMIN, local=True)


@dataclass(frozen=True, slots=True)
class NameRole:
    """Gives certificates without a URI a role by a DNS SAN or their CN; `*.` stands for one label."""

    pattern: str
    role: Role

    def matches(self, name: str) -> bool:
        """True for the pattern itself (stock clients carry wildcards) and for one label in place of `*`."""
        lowered, pattern = name.lower(), self.pattern.lower()
        if lowered == pattern:
            return True
        _, dot, rest = lowered.partition(".")
        return bool(dot) and pattern.startswith("*.") and rest == pattern[2:]


def parse_role(text: str) -> Role:
    """`svc/relay`, `node/n1`, `user/reader/ann` or `peer/west` → Role. Raises InvalidArgument."""
    parts = text.strip("/").split("/")
    grade, name = "", parts[-1]
    if len(parts) == 3 and parts[0] == USER and parts[1] in (READER, ADMIN):
        grade = parts[1]
    elif len(parts) != 2 or parts[0] not in (SERVICE, NODE, PEER):
        raise InvalidArgument.of_field(
            "role", f"{text!r} is not svc/NAME, node/NAME, user/reader/NAME, user/admin/NAME or peer/CLUSTER"
        )
    if not _NAME.fullmatch(name):
        raise InvalidArgument.of_field(
            "name", f"{name!r} is not a DNS name of letters, digits, '.', '-' and '_'"
        )
    return Role(parts[0], name, grade)


def parse_name_roles(entries: Iterable[str]) -> tuple[NameRole, ...]:
    """Entries `PATTERN=ROLE`: `*.hubble-relay.cilium.io=user/reader/stock`. Raises InvalidArgument."""
    rules = []
    for entry in entries:
        pattern, equals, role = entry.partition("=")
        if not equals or not pattern.strip():
            raise InvalidArgument.of_field("certificate_names", f"{entry!r} is not PATTERN=ROLE")
        rules.append(NameRole(pattern.strip(), parse_role(role.strip())))
    return tuple(rules)


def spiffe_id(role: Role, trust_domain: str) -> str:
    """The URI that a certificate of this role carries."""
    return f"{SCHEME}{check_trust_domain(trust_domain)}{role.path}"


def check_trust_domain(trust_domain: str) -> str:
    """Returns it. Raises InvalidArgument unless it is lower-case letters, digits, '.', '-' and '_'."""
    if not _TRUST_DOMAIN.fullmatch(trust_domain):
        raise InvalidArgument.of_field("trust_domain", f"{trust_domain!r} is not a lower-case DNS name")
    return trust_domain


def role_of_spiffe(uri: str, trust_domain: str) -> Role:
    """Raises Unauthenticated for another trust domain, a foreign scheme or a path that names no role."""
    prefix = f"{SCHEME}{trust_domain}/"
    if len(uri.encode()) > MAX_ID_BYTES or not uri.startswith(prefix):
        raise Unauthenticated(
            f"the certificate's id {uri[:128]!r} is not of the trust domain {trust_domain!r}",
            reason="WRONG_TRUST_DOMAIN",
        )
    path = uri.removeprefix(prefix)
    try:
        role = parse_role(path)
    except InvalidArgument as error:
        raise Unauthenticated(f"the certificate's id {uri[:128]!r} names no role: {error}") from error
    if role.path[1:] != path:
        raise Unauthenticated(f"the certificate's id {uri[:128]!r} is not in its plain form")
    return role


def role_of_names(names: Sequence[str], rules: Sequence[NameRole]) -> Role:
    """First rule that matches a DNS SAN or CN. Raises Unauthenticated when none does."""
    for rule in rules:
        if any(rule.matches(name) for name in names):
            return rule.role
    raise Unauthenticated("the certificate has no SPIFFE id and no configured name", reason="NO_SPIFFE_ID")


def role_of(
    uris: Sequence[str], names: Sequence[str], trust_domain: str, rules: Sequence[NameRole] = ()
) -> Role:
    """Exactly one URI decides; without one, the configured names do. Raises Unauthenticated."""
    if len(uris) > 1:
        raise Unauthenticated("the certificate carries more than one URI", reason="MANY_SPIFFE_IDS")
    return role_of_spiffe(uris[0], trust_domain) if uris else role_of_names(names, rules)
