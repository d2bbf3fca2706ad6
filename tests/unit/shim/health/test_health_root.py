"""ICMP echoes of a process without capabilities, in a network namespace of its own."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.health.probes import NOT_PERMITTED

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[4]
PING = """
import asyncio, os, sys
from shim import privileges
from shim.privileged import sysctls
if sys.argv[2] == "permitted":
    sysctls.permit_echoes(os.getgid())
privileges.keep_only(())
from shim.health.probes import probes
print(asyncio.run(probes(1)["icmp"](sys.argv[1])).error or "reachable")
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"axt-e-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_group_is_permitted_and_nothing_else(namespace: str, address: str) -> None:
    said = []
    for mode in ("refused", "permitted"):
        command = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-c", PING, address, mode]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
        said.append(done.stdout.strip())
    assert said == [NOT_PERMITTED, "reachable"]


RANGES = """
import sys
from pathlib import Path
from shim.privileged import sysctls
for group in (3, 7, 5, 1):
    sysctls.permit_echoes(group)
    print(*Path("/proc/sys/net/ipv4/ping_group_range").read_text().split())
"""


def test_the_range_grows_and_never_shrinks(namespace: str) -> None:
    command = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-c", RANGES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines() == ["3 3", "3 7", "3 7", "1 7"]
