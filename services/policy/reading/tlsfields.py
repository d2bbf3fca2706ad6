"""Reading the TLS sides of a port element: terminatingTLS, originatingTLS and serverNames."""

from __future__ import annotations

from services.policy.reading.context import Reading
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.reading.fqdnfields import read_pattern
from services.policy.rules import TlsContext

_ENTRIES = ("trustedCA", "certificate", "privateKey")


def read_tls(node: Node, reading: Reading) -> TlsContext | None:
    """The secret behind a side; one without a namespace is in that of the policy."""
    fields = reading.fields
    present = fields.mapping(node, ("secret", *_ENTRIES))
    entries = {key: fields.text(present[key]) or "" for key in _ENTRIES if key in present}
    if "secret" not in present:
        if node.mapping is not None:
            fields.fault(node, "the TLS side has no secret", "give it secret: {namespace, name}")
        return None
    secret = read_secret(present["secret"], reading)
    if secret is None:
        return None
    return TlsContext(
        secret_namespace=secret[0],
        secret=secret[1],
        certificate=entries.get("certificate", ""),
        private_key=entries.get("privateKey", ""),
        trusted_ca=entries.get("trustedCA", ""),
    )


def read_secret(node: Node, reading: Reading) -> tuple[str, str] | None:
    """Namespace and name of a secret."""
    fields = reading.fields
    present = fields.mapping(node, ("namespace", "name"))
    namespace = fields.namespace(present["namespace"]) if "namespace" in present else reading.namespace
    if "name" not in present:
        if node.mapping is not None:
            fields.fault(node, "the secret has no name", "give it a name")
        return None
    name = fields.name(present["name"])
    return None if name is None or namespace is None else (namespace, name)


def read_server_names(node: Node, fields: Fields) -> tuple[str, ...]:
    """Names that a client may ask for: `*` inside a label, a leading `**.` for whole labels."""
    return tuple(sorted({name for item in fields.items(node) if (name := read_pattern(item, fields))}))
