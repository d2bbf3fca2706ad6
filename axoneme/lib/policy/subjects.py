"""The keys under which subjects travel: `subject:<number>` for an identity, `host:<node>` for a node's host.

Pure text; the wire form is `axoneme.lib.policycodec`.
"""

from __future__ import annotations

import sys
from typing import Final

IDENTITY_PREFIX: Final = "subject:"
HOST_PREFIX: Final = "host:"


def subject_key(identity: int) -> str:
    """Key of an identity in its stream. A thousand streams name the same keys: they share the text."""
    return sys.intern(f"{IDENTITY_PREFIX}{identity}")


def host_key(node: str) -> str:
    """Key of the host endpoint of a node."""
    return sys.intern(f"{HOST_PREFIX}{node}")
