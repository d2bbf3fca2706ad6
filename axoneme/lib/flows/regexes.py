"""Regular expressions of filters: RE2, as in Hubble, so that matching is linear whatever a caller sends."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import re2

from axoneme.lib.errors import InvalidArgument

MAX_LENGTH: Final = 4_096
_OPTIONS: Final = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.never_capture = True


def glob_of(where: str, pattern: str, characters: str) -> Callable[[str], bool]:
    """Whether a text is wholly a pattern, whose * stands for any number of `characters`."""
    parts = [re2.escape(part) for part in re.split(r"\*+", pattern)]
    return search_of(where, f"^(?:{f'[{characters}]*'.join(parts)})$")


def search_of(where: str, expression: str) -> Callable[[str], bool]:
    """Whether the expression is found anywhere in a text. Raises InvalidArgument; `where` names the field."""
    if len(expression) > MAX_LENGTH:
        raise InvalidArgument.of_field(where, f"the expression is longer than {MAX_LENGTH} characters")
    try:
        pattern = re2.compile(expression, options=_OPTIONS)
    except re2.error as error:
        reason = error.args[0] if error.args else "unknown reason"
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        message = f"{expression!r} is not a regular expression: {text}"
        raise InvalidArgument.of_field(where, message) from error
    return lambda text: pattern.search(text) is not None
