"""A machine under qemu without KVM, with the host's file system; its console is what it said."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.kernels import initramfs
from tests.kernels.packages import Kernel

VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
QEMU = "qemu-system-x86_64"
MEMORY = "2G"
SOCKET_SECONDS = 10.0


def run(kernel: Kernel, *, folder: Path, command: str, seconds: float) -> str:
    """Boots, runs a command of the host's file system in `folder`, and returns the console.

    Raises subprocess.TimeoutExpired when the machine does not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="axoneme-kernel-") as name:
        place = Path(name)
        archive = place / "initramfs.gz"
        archive.write_bytes(initramfs.build(kernel, folder=folder, command=command))
        with _shared(place / "files.sock") as socket:
            return _boot(kernel, archive, socket, seconds)


@contextlib.contextmanager
def _shared(socket: Path) -> Iterator[Path]:
    daemon = subprocess.Popen(
        [VIRTIOFSD, f"--socket-path={socket}", "-o", "source=/", "-o", "cache=auto", "-o", "sandbox=chroot"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + SOCKET_SECONDS
        while not socket.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{VIRTIOFSD} did not open its socket")
            time.sleep(0.02)
        yield socket
    finally:
        daemon.kill()
        daemon.wait()


def _boot(kernel: Kernel, archive: Path, socket: Path, seconds: float) -> str:
    command = [
        *(QEMU, "-machine", "q35,accel=tcg,memory-backend=memory", "-cpu", "max", "-smp", "2"),
        *("-m", MEMORY, "-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on"),
        *("-chardev", f"socket,id=files,path={socket}"),
        *("-device", "vhost-user-fs-pci,chardev=files,tag=host"),
        *("-kernel", str(kernel.image), "-initrd", str(archive)),
        *("-append", "console=ttyS0 quiet panic=-1 oops=panic"),
        *("-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot", "-nic", "none"),
    ]
    done = subprocess.run(
        command, check=False, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL
    )
    return done.stdout.decode(errors="replace")
