"""Work that may fail and is tried again later: an expected error is logged, not raised."""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError

logger = logging.getLogger(__name__)


async def attempt(text: str, doing: Awaitable[object]) -> bool:
    """Awaits and logs an expected error under `text` instead of raising it; True when all went well."""
    try:
        await doing
    except (AxonemeError, OSError) as error:
        logger.warning(text, extra={log.ERROR: log.clip(error)})
        return False
    return True
