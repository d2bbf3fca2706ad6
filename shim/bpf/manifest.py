"""Where the compiled BPF objects lie, and what they were made from.

`compile.py` writes `objects/`; the privileged helper asks here for a path and gets it only if the file is
the one that the manifest describes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "objects"
MANIFEST_NAME: Final = "manifest.json"


class ObjectsMissingError(RuntimeError):
    """There are no usable BPF objects; the message says what to do."""


def read_manifest(folder: Path = FOLDER) -> dict[str, Any]:
    """The manifest: schema_version, sources_sha256, compiler, objects (sha256, bytes); empty without one."""
    try:
        found = json.loads((folder / MANIFEST_NAME).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def object_path(name: str = "endpoint.o", *, folder: Path = FOLDER) -> Path:
    """Path of a compiled object. Raises ObjectsMissingError when it is absent or not the manifest's."""
    entry = read_manifest(folder).get("objects", {}).get(name)
    path = folder / name
    if entry is None or not path.is_file():
        raise ObjectsMissingError(
            f"{path} is missing: run `make bpf` (needs clang) or install a wheel with objects"
        )
    if sha256_of(path) != entry["sha256"]:
        raise ObjectsMissingError(f"{path} differs from its manifest: run `make bpf`")
    return path
