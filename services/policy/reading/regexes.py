"""Regular expressions of HTTP rules: RE2 syntax, so that matching is linear whatever a user writes."""

from __future__ import annotations

from typing import Final

import re2

MAX_LENGTH: Final = 4096
_OPTIONS: Final = re2.Options()
_OPTIONS.log_errors = False


def problem_of(expression: str) -> str:
    """What is wrong with an expression; empty if it may be used."""
    if len(expression) > MAX_LENGTH:
        return f"it is longer than {MAX_LENGTH} characters"
    try:
        re2.compile(expression, options=_OPTIONS)
    except re2.error as error:
        reason = error.args[0] if error.args else "unknown reason"
        return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
    except UnicodeError:
        return "it is not valid Unicode"
    return ""
