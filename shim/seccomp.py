"""Which system calls a process of the node can make at all: small filters, with the standard library alone.

A filter is a classic BPF program that the kernel runs on each call's number and arguments. It cannot be
taken off, and descendants inherit it. What is refused fails with EPERM; clone3, whose flags lie in memory
that a filter cannot read, fails with ENOSYS, so that the C library uses clone.

    instructions → `program`: bytes of struct sock_filter → `install`: prctl
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 38, 39, 22
_MODE_FILTER = 2
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = (
    0x20,
    0x15,
    0x35,
    0x45,
    0x06,
)  # BPF_LD|W|ABS, BPF_JMP|…|K, BPF_RET
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data, little endian
_X32_BIT = 0x4000_0000

CLONE_NEW_ANY: Final = 0x7E02_0000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""

# BPF_MAP_*_ELEM, GET_NEXT_KEY, OBJ_GET, OBJ_GET_INFO_BY_FD, LOOKUP_AND_DELETE_ELEM and the batches: what
# works on descriptors and pins that the process may open anyway.
MAP_COMMANDS: Final = (1, 2, 3, 4, 7, 15, 21, 24, 25, 26, 27)


class Machine(NamedTuple):
    """One architecture: its number in `seccomp_data.arch`, whether x32 calls exist, numbers of calls."""

    architecture: int
    has_x32: bool
    numbers: Mapping[str, int]


_NAMES_SINCE_5_1 = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "clone3": 435,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
}
_X86_64 = {
    "clone": 56,
    "execve": 59,
    "ptrace": 101,
    "syslog": 103,
    "uselib": 134,
    "personality": 135,
    "_sysctl": 156,
    "pivot_root": 155,
    "adjtimex": 159,
    "chroot": 161,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "sethostname": 170,
    "setdomainname": 171,
    "iopl": 172,
    "ioperm": 173,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "clock_settime": 227,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "move_pages": 279,
    "unshare": 272,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "clock_adjtime": 305,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "execveat": 322,
    "userfaultfd": 323,
    **_NAMES_SINCE_5_1,
}
_GENERIC = {
    "umount2": 39,
    "mount": 40,
    "pivot_root": 41,
    "chroot": 51,
    "quotactl": 60,
    "acct": 89,
    "personality": 92,
    "unshare": 97,
    "kexec_load": 104,
    "init_module": 105,
    "delete_module": 106,
    "clock_settime": 112,
    "syslog": 116,
    "ptrace": 117,
    "reboot": 142,
    "sethostname": 161,
    "setdomainname": 162,
    "settimeofday": 170,
    "adjtimex": 171,
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "clone": 220,
    "execve": 221,
    "swapon": 224,
    "swapoff": 225,
    "move_pages": 239,
    "perf_event_open": 241,
    "fanotify_init": 262,
    "name_to_handle_at": 264,
    "open_by_handle_at": 265,
    "clock_adjtime": 266,
    "setns": 268,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "kcmp": 272,
    "finit_module": 273,
    "bpf": 280,
    "execveat": 281,
    "userfaultfd": 282,
    "kexec_file_load": 294,
    **_NAMES_SINCE_5_1,
}
MACHINES: Final[Mapping[str, Machine]] = {
    "x86_64": Machine(0xC000_003E, True, _X86_64),
    "aarch64": Machine(0xC000_00B7, False, _GENERIC),
    "riscv64": Machine(0xC000_00F3, False, _GENERIC),
}

# What no process of a node has any need of, root or not.
FOREIGN: Final = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot"),
    *("swapon", "swapoff", "add_key", "request_key", "keyctl", "perf_event_open", "userfaultfd"),
    *("open_by_handle_at", "name_to_handle_at", "fanotify_init", "iopl", "ioperm", "uselib", "_sysctl"),
    *("pivot_root", "chroot", "acct", "quotactl", "syslog", "personality", "move_pages"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"),
)
# What only the helper does.
OF_THE_HELPER: Final = ("mount", "umount2", "setns", "unshare")
EXECUTION: Final = ("execve", "execveat")


class Instruction(NamedTuple):
    """`struct sock_filter`: jumps count the instructions that are left out."""

    code: int
    if_true: int
    if_false: int
    operand: int

    def pack(self) -> bytes:
        return struct.pack("=HBBI", *self)


def shim_program(machine: str | None = None) -> bytes:
    """The shim's filter; empty on an architecture whose numbers are not known."""
    return _program(machine, (*FOREIGN, *OF_THE_HELPER), bpf_commands=MAP_COMMANDS)


def fqdn_program(machine: str | None = None) -> bytes:
    """The DNS proxy's filter, which is the shim's: its capabilities are of sockets, maps it only opens."""
    return shim_program(machine)


def helper_program(machine: str | None = None) -> bytes:
    """The helper's filter; empty on an architecture whose numbers are not known."""
    return _program(machine, FOREIGN, bpf_commands=None)


def forbid_execution() -> bool:
    """From here on this process and its descendants start no other program; whether that is so.

    Without no_new_privs nothing is done: a process that the supervisor did not start keeps its rights.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    known = MACHINES.get(os.uname().machine)
    if known is None or libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1:
        return False
    install(_packed([*_for_this(known), *_refusals(known, EXECUTION), _answer(_ALLOW)]))
    return True


def install(program: bytes) -> None:
    """Puts this thread, and all that it starts, under a filter. An empty program does nothing.

    Raises OSError: without no_new_privs the kernel wants CAP_SYS_ADMIN.
    """
    if not program:
        return
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), header, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp filter of {len(program) // 8} instructions: {os.strerror(number)}")


def _program(machine: str | None, refused: Collection[str], bpf_commands: Collection[int] | None) -> bytes:
    known = MACHINES.get(machine or os.uname().machine)
    if known is None:
        return b""
    steps = _for_this(known)
    # Calls that depend on arguments come first: the kernel remembers the answers of all others.
    steps += _when(known.numbers["clone"], [*_argument(0), *_refuse_bits(CLONE_NEW_ANY), _answer(_ALLOW)])
    steps += _when(known.numbers["clone3"], [_answer(_ERRNO | errno.ENOSYS)])
    if bpf_commands is not None:
        allowed = [step for command in bpf_commands for step in _when(command, [_answer(_ALLOW)])]
        steps += _when(known.numbers["bpf"], [*_argument(0), *allowed, _refuse()])
    return _packed([*steps, *_refusals(known, refused), _answer(_ALLOW)])


def _for_this(machine: Machine) -> list[Instruction]:
    """Calls of another architecture are refused; then the call's number is at hand."""
    steps = [
        Instruction(_LOAD, 0, 0, _ARCHITECTURE),
        Instruction(_EQUAL, 1, 0, machine.architecture),
        _refuse(),
        Instruction(_LOAD, 0, 0, _NUMBER),
    ]
    if machine.has_x32:
        steps += [Instruction(_AT_LEAST, 0, 1, _X32_BIT), _refuse()]
    return steps


def _refusals(machine: Machine, names: Iterable[str]) -> list[Instruction]:
    numbers = [machine.numbers[name] for name in names if name in machine.numbers]
    return [step for number in numbers for step in _when(number, [_refuse()])]


def _when(value: int, then: list[Instruction]) -> list[Instruction]:
    """Runs `then`, which must answer, if the value at hand is this one."""
    return [Instruction(_EQUAL, 0, len(then), value), *then]


def _argument(index: int) -> list[Instruction]:
    """Brings the low half of an argument to hand."""
    return [Instruction(_LOAD, 0, 0, _ARGUMENTS + 8 * index)]


def _refuse_bits(mask: int) -> list[Instruction]:
    return [Instruction(_ANY_BIT, 0, 1, mask), _refuse()]


def _refuse() -> Instruction:
    return _answer(_ERRNO | errno.EPERM)


def _answer(action: int) -> Instruction:
    return Instruction(_RETURN, 0, 0, action)


def _packed(steps: Iterable[Instruction]) -> bytes:
    return b"".join(step.pack() for step in steps)
