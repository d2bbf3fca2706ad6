"""Names of what a node makes in the kernel, for those who make it and those who clear it away."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

HEALTH_PREFIX: Final = "axh-"


def health_namespace(pin_folder: Path) -> str:
    """Network namespace of a node's health endpoint, out of the folder of its pins (`…/axoneme/<node>`):
    one machine may hold many nodes, of one name too."""
    return HEALTH_PREFIX + hashlib.sha256(os.fsencode(pin_folder)).hexdigest()[:8]
