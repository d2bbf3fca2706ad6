"""The filters of system calls: what they hold on every architecture, and what they do in this kernel."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shim import seccomp
from shim.supervisor import ProcessSpec, node_processes

ROOT = Path(__file__).parents[3]

# Runs under a filter; answers with the errno of each call, 0 for one that went through.
CALLER = """
import ctypes, json, os, struct, sys
from shim import privileges, seccomp
libc = ctypes.CDLL(None, use_errno=True)
if os.geteuid() == 0:
    privileges.keep_only()
else:
    assert libc.prctl(38, 1, 0, 0, 0) == 0
seccomp.install(getattr(seccomp, sys.argv[1])())
numbers = seccomp.MACHINES[os.uname().machine].numbers

def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(one) for one in arguments])
    return ctypes.get_errno() if result < 0 else 0

bad = -1 & 0xFFFFFFFFFFFFFFFF
refused = {name: call(number, bad, bad, bad, bad, bad) for name, number in numbers.items()
           if name not in ("bpf", "clone", "clone3", "execve", "execveat")}
empty = ctypes.create_string_buffer(256)
bpf = {command: call(numbers["bpf"], command, ctypes.addressof(empty), 128) for command in range(40)}
clone = {hex(1 << bit): call(numbers["clone"], 1 << bit | 17, 0, 0, 0, 0)
         for bit in (17, 25, 26, 27, 28, 29, 30)}
print(json.dumps({"refused": refused, "bpf": bpf, "clone": clone, "clone3": call(numbers["clone3"], 0, 0)}))
"""


def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module", params=["shim_program", "fqdn_program", "helper_program"])
def answers(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if os.uname().machine not in seccomp.MACHINES:
        pytest.skip("no numbers for this architecture")
    done = run(CALLER, request.param)
    assert done.returncode == 0, done.stderr
    return request.param, json.loads(done.stdout)


EPERM, ENOSYS = 1, 38


def test_each_call_of_the_list_is_refused(answers: tuple[str, dict[str, Any]]) -> None:
    which, found = answers
    names = seccomp.FOREIGN + (seccomp.OF_THE_HELPER if which != "helper_program" else ())
    numbers = seccomp.MACHINES[os.uname().machine].numbers
    assert {name: found["refused"][name] for name in names if name in numbers} == {
        name: EPERM for name in names if name in numbers
    }


def test_no_namespace_is_made_by_clone(answers: tuple[str, dict[str, Any]]) -> None:
    assert set(answers[1]["clone"].values()) == {EPERM}
    assert answers[1]["clone3"] == ENOSYS


def test_the_shim_works_on_maps_and_no_more(answers: tuple[str, dict[str, Any]]) -> None:
    which, found = answers
    if which != "helper_program":
        refused = {int(command) for command, number in found["bpf"].items() if number == EPERM}
        assert refused == set(range(40)) - set(seccomp.MAP_COMMANDS)


def test_what_a_python_process_needs_goes_through() -> None:
    code = """
import asyncio, ctypes, mmap, socket, ssl, subprocess, sys, tempfile, threading
from shim import privileges, seccomp
privileges.keep_only() if __import__('os').geteuid() == 0 else ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
seccomp.install(seccomp.shim_program())
import grpc
async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port('127.0.0.1:0')
    await server.start()
    async with grpc.aio.insecure_channel(f'127.0.0.1:{port}') as channel:
        await asyncio.wait_for(channel.channel_ready(), 20)
    await asyncio.to_thread(tempfile.TemporaryFile().write, b'x')
    await server.stop(None)
asyncio.run(main())
assert subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True).stdout == b'1\\n'
assert seccomp.forbid_execution()
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
try:
    subprocess.run(['/bin/true'])
except PermissionError:
    print('refused')
"""
    done = run(code)
    assert done.stdout == "refused\n", done.stderr


def test_without_no_new_privs_execution_stays_allowed() -> None:
    code = (
        "import subprocess; from shim import seccomp; assert not seccomp.forbid_execution();"
        "print(subprocess.run(['/bin/true']).returncode)"
    )
    assert run(code).stdout == "0\n"


@pytest.mark.parametrize("machine", sorted(seccomp.MACHINES))
def test_programs_are_whole_on_every_architecture(machine: str) -> None:
    for program in (seccomp.shim_program(machine), seccomp.helper_program(machine)):
        steps = list(struct.iter_unpack("=HBBI", program))
        assert len(steps) <= 4096
        assert steps[1][3] == seccomp.MACHINES[machine].architecture
        assert steps[-1] == (0x06, 0, 0, 0x7FFF_0000), "what no rule names is allowed"
        for place, (code, if_true, if_false, _) in enumerate(steps):
            if code & 7 == 5:
                assert place + 1 + max(if_true, if_false) < len(steps)
    wanted = {*seccomp.FOREIGN, *seccomp.OF_THE_HELPER, *seccomp.EXECUTION, "bpf", "clone", "clone3"}
    absent = wanted - seccomp.MACHINES[machine].numbers.keys()
    assert absent <= {"iopl", "ioperm", "uselib", "_sysctl"}, "calls that only x86 has"


def test_unknown_architectures_get_none() -> None:
    assert seccomp.shim_program("s390x") == seccomp.helper_program("s390x") == b""
    seccomp.install(b"")


def test_the_supervisor_filters_all(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('node_name = "n1"\n')
    assert [spec.filter_program for spec in node_processes(config)] == [
        seccomp.helper_program(),
        seccomp.fqdn_program(),
        seccomp.shim_program(),
    ]
    assert ProcessSpec(name="x", command=("x",)).filter_program == b""
