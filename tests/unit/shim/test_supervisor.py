"""The supervisor with small processes: restart, order of stop, and no capability where none belongs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shim import privileges
from shim.supervisor import (
    FQDN_CAPABILITIES,
    HEARTBEAT_LIMIT_SECONDS,
    HEARTBEAT_START_SECONDS,
    HELPER_CAPABILITIES,
    Pulse,
    node_processes,
)
from tests.waiting import eventually_sync

ROOT = Path(__file__).parents[3]
HELPER_MASK = sum(1 << capability for capability in HELPER_CAPABILITIES)

SUPERVISE = """
import sys
from pathlib import Path
from shim.supervisor import HELPER_CAPABILITIES, ProcessSpec, Supervisor
folder = Path(sys.argv[1])
child = (
    "import os,signal,sys,time\\n"
    "from pathlib import Path\\n"
    "folder, name = Path(sys.argv[1]), sys.argv[2]\\n"
    "def stop(*_):\\n"
    "    with (folder / 'stops').open('a') as file: file.write(name + chr(10))\\n"
    "    sys.exit(0)\\n"
    "signal.signal(signal.SIGTERM, stop)\\n"
    "status = Path('/proc/self/status').read_text()\\n"
    "(folder / (name + '.tmp')).write_text(str(os.getpid()) + chr(10) + status)\\n"
    "(folder / (name + '.tmp')).rename(folder / name)\\n"
    "signal.pause()\\n"
)
specs = [
    ProcessSpec(
        name=name,
        command=(sys.executable, "-c", child, str(folder), name),
        capabilities=HELPER_CAPABILITIES if name == "helper" else (),
    )
    for name in ("helper", "shim")
]
sys.exit(Supervisor(specs).run())
"""


def status_of(folder: Path, name: str) -> tuple[int, dict[str, str]]:
    pid, *lines = (folder / name).read_text().splitlines()
    return int(pid), {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.root
def test_restart_capabilities_and_order_of_stop(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        eventually_sync(lambda: (tmp_path / "helper").exists() and (tmp_path / "shim").exists(), seconds=20)
        pid, status = status_of(tmp_path, "shim")
        for kind in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
            assert int(status[kind], 16) == 0, kind
        assert status["NoNewPrivs"] == "1"
        assert status["Umask"] == "0077"
        assert status["Uid"].split()[0] == "0"
        status = status_of(tmp_path, "helper")[1]
        for kind in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
            assert int(status[kind], 16) == HELPER_MASK, kind
        assert (status["NoNewPrivs"], status["Umask"]) == ("1", "0077")
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        eventually_sync(lambda: status_of(tmp_path, "shim")[0] != pid, seconds=20)
        assert time.monotonic() - killed < 10
        process.terminate()
        assert process.wait(20) == 0
        assert (tmp_path / "stops").read_text().split() == ["shim", "helper"]
    finally:
        process.kill()
        process.wait()


@pytest.mark.root
def test_children_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    eventually_sync(lambda: (tmp_path / "helper").exists() and (tmp_path / "shim").exists(), seconds=20)
    process.kill()
    process.wait()
    stops = tmp_path / "stops"
    eventually_sync(lambda: stops.exists() and len(stops.read_text().split()) == 2, seconds=20)


HEARTBEATS = """
import sys
from pathlib import Path
from shim.supervisor import ProcessSpec, Supervisor
folder = Path(sys.argv[1])
child = (
    "import os,sys,time\\n"
    "from pathlib import Path\\n"
    "folder, name = Path(sys.argv[1]), sys.argv[2]\\n"
    "with (folder / name).open('a') as file: file.write(str(os.getpid()) + chr(10))\\n"
    "while True:\\n"
    "    (folder / (name + '.heartbeat')).write_text('')\\n"
    "    time.sleep(0.1)\\n"
)
names = ("fqdn", "shim")
specs = [
    ProcessSpec(name=name, command=(sys.executable, "-c", child, str(folder), name), heartbeat=heartbeat)
    for name, heartbeat in (("fqdn", folder / "fqdn.heartbeat"), ("shim", None))
]
sys.exit(Supervisor(specs).run())
"""


def pids_of(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_what_stops_beating_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HEARTBEATS, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    fqdn, shim = tmp_path / "fqdn", tmp_path / "shim"
    try:
        eventually_sync(lambda: pids_of(fqdn) and pids_of(shim), seconds=20)
        eventually_sync((tmp_path / "fqdn.heartbeat").exists, seconds=20)
        stopped = time.monotonic()
        os.kill(pids_of(fqdn)[0], signal.SIGSTOP)
        eventually_sync(lambda: len(pids_of(fqdn)) == 2, seconds=20)
        assert time.monotonic() - stopped < HEARTBEAT_LIMIT_SECONDS + 2
        os.kill(pids_of(shim)[0], signal.SIGKILL)
        eventually_sync(lambda: len(pids_of(shim)) == 2, seconds=20)
        assert len(pids_of(fqdn)) == 2, "the proxy outlives the shim"
    finally:
        process.terminate()
        process.wait(20)


def test_a_heartbeat_is_a_time_that_changes(tmp_path: Path) -> None:
    file = write(tmp_path / "beat", "")
    pulse = Pulse(file, 0.0)
    times = [0.25 * step for step in range(1, 200)]
    assert next(at for at in times if pulse.stopped(at)) == HEARTBEAT_START_SECONDS, "a start takes longer"
    pulse = Pulse(file, 0.0)
    os.utime(file, ns=(1, 1))
    assert not pulse.stopped(9.0), "an older time is news too"
    assert next(at for at in times if pulse.stopped(9.0 + at)) == HEARTBEAT_LIMIT_SECONDS
    pulse = Pulse(file, 0.0)
    os.utime(file, ns=(2, 2))
    assert not pulse.stopped(0.25)
    assert not pulse.stopped(500.0), "the supervisor itself was held up"
    file.unlink()
    assert not pulse.stopped(500.25)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_processes_of_a_node(tmp_path: Path) -> None:
    file = write(tmp_path / "node.toml", 'node_name = "n1"\nrun_directory = "/run/x"\n')
    helper, fqdn, shim = node_processes(file)
    wanted = (privileges.CAP_BPF, privileges.CAP_NET_ADMIN, privileges.CAP_SYS_ADMIN)
    assert helper.capabilities == wanted
    assert shim.capabilities == ()
    assert "/run/x" in helper.command
    assert str(file) in shim.command
    needed = (privileges.CAP_NET_ADMIN, privileges.CAP_NET_BIND_SERVICE, privileges.CAP_NET_RAW)
    assert fqdn.capabilities == FQDN_CAPABILITIES == needed
    assert fqdn.heartbeat == Path("/run/x/fqdn.heartbeat")
    assert str(file) in fqdn.command
    assert helper.heartbeat is shim.heartbeat is None
    write(file, 'node_name = "n1"\ndns_proxy = false\n')
    assert [spec.name for spec in node_processes(file)] == ["helper", "shim"]
    write(file, 'node_name = "n1"\ndatapath = "memory"\n')
    assert [spec.name for spec in node_processes(file)] == ["shim"]
    write(file, "")
    with pytest.raises(ValueError, match="node_name"):
        node_processes(file)


def test_supervisor_imports_the_standard_library_only() -> None:
    code = (
        "import sys; import shim.supervisor;"
        "foreign = ('grpc', 'click', 'aiohttp', 'numpy', 'pyroute2', 'axoneme');"
        "print([m for m in sys.modules if m.partition('.')[0] in foreign])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
