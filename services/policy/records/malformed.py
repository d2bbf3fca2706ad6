"""A record of the store that is no policy object and cannot be read."""

from __future__ import annotations


class MalformedRecordError(ValueError):
    """A stored input that cannot be used; what was known before it stays in force, and it is counted."""
