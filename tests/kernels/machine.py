"""A machine under qemu without KVM, with the host's file system; its console is what it said."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.kernels import initramfs
from tests.kernels.packages import Kernel

VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
QEMU = "qemu-system-x86_64"
MEMORY = "2G"
TOOLS = {QEMU: "qemu-system-x86", VIRTIOFSD: "qemu-system-common", "busybox": "busybox-static"}
SOCKET_SECONDS = 10.0


class MachineError(RuntimeError):
    """The machine could not be started, or did not end in time; the message says what to do."""


def run(kernel: Kernel, *, folder: Path, command: str, seconds: float) -> Iterator[str]:
    """Boots, runs a command of the host's file system in `folder`, and yields the console's lines.

    Raises MachineError without a tool of its own, and `seconds` after the start when it still runs.
    """
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise MachineError(f"{tool} is not installed (Debian: apt-get install {package})")
    with tempfile.TemporaryDirectory(prefix="axoneme-kernel-") as name:
        place = Path(name)
        archive = place / "initramfs.gz"
        archive.write_bytes(initramfs.build(kernel, folder=folder, command=command))
        with _shared(place / "files.sock") as socket:
            yield from _boot(kernel, archive, socket, seconds)


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
                raise MachineError(f"{VIRTIOFSD} did not open its socket")
            time.sleep(0.02)
        yield socket
    finally:
        daemon.kill()
        daemon.wait()


def _boot(kernel: Kernel, archive: Path, socket: Path, seconds: float) -> Iterator[str]:
    command = [
        *(QEMU, "-machine", "q35,accel=tcg,memory-backend=memory", "-cpu", "max", "-smp", "2"),
        *("-m", MEMORY, "-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on"),
        *("-chardev", f"socket,id=files,path={socket}"),
        *("-device", "vhost-user-fs-pci,chardev=files,tag=host"),
        *("-kernel", str(kernel.image), "-initrd", str(archive)),
        *("-append", "console=ttyS0 quiet panic=-1 oops=panic"),
        *("-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot", "-nic", "none"),
    ]
    machine = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        machine.kill()

    limit = threading.Timer(seconds, stop)
    limit.start()
    try:
        assert machine.stdout is not None
        for line in machine.stdout:
            yield line.decode(errors="replace").rstrip()
    finally:
        limit.cancel()
        machine.kill()
        machine.wait()
    if late.is_set():
        raise MachineError(f"the machine with {kernel.release} did not end within {seconds:.0f} s")
