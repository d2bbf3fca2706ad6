"""Pages of a list: at most 1,000 items, an opaque token that names the last key of the page before.

A token holds a position, not a number of items, so inserts and deletes between two calls neither repeat nor
skip what exists throughout. Pure.
"""

from __future__ import annotations

import base64
import binascii
import bisect
from collections.abc import Callable, Sequence
from typing import TypeVar

from axoneme.lib.errors import InvalidArgument

DEFAULT_PAGE_SIZE = 500
MAX_PAGE_SIZE = 1_000
_PREFIX = b"k1:"

Item = TypeVar("Item")


def page(
    items: Sequence[Item], key: Callable[[Item], str], page_size: int, page_token: str
) -> tuple[list[Item], str]:
    """One page of `items`, which are sorted by `key`, and the token of the next (empty on the last page).

    Raises InvalidArgument for a negative size or a token that is not ours.
    """
    size = checked_size(page_size)
    start = bisect.bisect_right(items, decode_token(page_token), key=key) if page_token else 0
    chosen = list(items[start : start + size])
    more = start + size < len(items)
    return chosen, encode_token(key(chosen[-1])) if more else ""


def checked_size(page_size: int) -> int:
    """0 means 500; more than 1,000 gives 1,000. Raises InvalidArgument when negative."""
    if page_size < 0:
        raise InvalidArgument.of_field("page_size", f"{page_size} is negative; use 0 for {DEFAULT_PAGE_SIZE}")
    return min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode_token(key: str) -> str:
    """Token for "after `key`"."""
    return base64.urlsafe_b64encode(_PREFIX + key.encode()).decode().rstrip("=")


def decode_token(token: str) -> str:
    """Key of a token. Raises InvalidArgument."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        if raw.startswith(_PREFIX):
            return raw.removeprefix(_PREFIX).decode()
    except (binascii.Error, UnicodeError, ValueError):
        pass
    raise InvalidArgument.of_field("page_token", "not a token of this list; start again without one")
