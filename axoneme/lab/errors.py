"""The one error of the laboratory that a user can meet."""

from __future__ import annotations


class LabError(Exception):
    """The laboratory cannot do what was asked; the text says why and what to do."""
