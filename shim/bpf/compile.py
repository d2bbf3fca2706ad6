"""Compiles the BPF programs ahead of time: `python -m shim.bpf.compile`, behind `make bpf` too.

Reads the sources of this folder, writes `objects/*.o` and `objects/manifest.json`; does nothing while neither
sources nor compiler changed. Nodes never compile.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from shim.bpf.manifest import FOLDER, MANIFEST_NAME, read_manifest, sha256_of
from shim.maps.layout import SCHEMA_VERSION

SOURCES: Final = Path(__file__).parent
_FLAGS: Final = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3")


class CompilerMissing(RuntimeError):  # noqa: N818 - the name is the build hook's contract
    """A tool to compile BPF programs is not installed."""


class CompilationError(RuntimeError):
    """The compiler refused a source; the message is the compiler's."""


def compile_objects(folder: Path = FOLDER) -> bool:
    """Compiles all when anything changed. Returns whether it did. Raises CompilerMissing without clang.

    When one source is refused, the objects and the manifest that are there stay as they are.
    """
    clang = _find("clang")
    compiler = _version(clang)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder), tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as scratch:
        digest = _digest(compiler)
        if _is_current(folder, digest):
            return False
        made = [_compile(clang, source, Path(scratch)) for source in sorted(SOURCES.glob("*.bpf.c"))]
        objects = {one.name: {"sha256": sha256_of(one), "bytes": one.stat().st_size} for one in made}
        for one in made:
            one.replace(folder / one.name)
        _write_manifest(folder, digest, compiler, objects)
    return True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of two that compile at once, the second waits for the first."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_manifest(folder: Path, digest: str, compiler: str, objects: dict[str, dict[str, Any]]) -> None:
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "sources_sha256": digest,
        "compiler": compiler,
        "objects": objects,
    }
    _write(folder / MANIFEST_NAME, json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n")


def _find(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise CompilerMissing(f"{name} is not installed (Debian: apt-get install clang llvm libbpf-dev)")
    return path


def _version(clang: str) -> str:
    lines = subprocess.run(
        [clang, "--version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return lines[0] if lines else "unknown"


def _digest(compiler: str) -> str:
    digest = hashlib.sha256(f"{compiler} {' '.join(_FLAGS)} {SCHEMA_VERSION}".encode())
    for path in sorted((*SOURCES.glob("*.c"), *SOURCES.glob("*.h"))):
        digest.update(f"\0{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_current(folder: Path, digest: str) -> bool:
    manifest: dict[str, Any] = read_manifest(folder)
    if manifest.get("sources_sha256") != digest:
        return False
    objects: dict[str, dict[str, Any]] = manifest.get("objects", {})
    return all(
        (folder / name).is_file() and sha256_of(folder / name) == entry["sha256"]
        for name, entry in objects.items()
    )


def _include_flags() -> list[str]:
    # asm/types.h lies in the folder of the machine's architecture, which -target bpf does not look into.
    return [f"-I/usr/include/{os.uname().machine}-linux-gnu"]


def _compile(clang: str, source: Path, folder: Path) -> Path:
    made = folder / (source.name.removesuffix(".bpf.c") + ".o")
    # The map from the build folder to "." keeps the object the same wherever it is built.
    prefix_map = f"-ffile-prefix-map={source.parent}=."
    _run([clang, *_FLAGS, prefix_map, *_include_flags(), "-c", str(source), "-o", str(made)])
    strip = shutil.which("llvm-strip")
    if strip is not None:
        _run([strip, "-g", str(made)])  # drops DWARF, keeps the BTF
    return made


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise CompilationError(result.stderr.strip() or f"{command[0]} failed")


def _write(path: Path, data: bytes) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_bytes(data)
    scratch.replace(path)


def main() -> int:
    """Compiles and says so in one line. Without a compiler says that, too, and succeeds."""
    try:
        compiled = compile_objects()
    except CompilerMissing as error:
        print(f"BPF objects not compiled: {error}; the control plane works without them")  # noqa: T201
        return 0
    except CompilationError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    names = ", ".join(sorted(read_manifest().get("objects", {})))
    print(f"BPF objects {'compiled' if compiled else 'up to date'}: {names}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
