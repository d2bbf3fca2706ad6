"""Loaded BPF programs: pins, ids, and test runs (BPF_PROG_TEST_RUN) on packets of our making."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.library import errno_of, libbpf

_VERIFIED_INSTRUCTIONS_OFFSET = 216  # of bpf_prog_info.verified_insns (5.16)
_SKB_CONTEXT_SIZE = 192  # struct __sk_buff
_SKB_MARK_OFFSET = 8
_SKB_IFINDEX_OFFSET = 40
_OUTPUT_SPACE = 512


class _ProgramInfo(ctypes.Structure):
    """`struct bpf_prog_info`, of which the head and one late field are read."""

    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("program_id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("rest", ctypes.c_uint8 * (_VERIFIED_INSTRUCTIONS_OFFSET - 16)),
        ("verified_instructions", ctypes.c_uint32),
        ("attach_btf_obj_id", ctypes.c_uint32),
    )


class _TestRunOptions(ctypes.Structure):
    """`struct bpf_test_run_opts` of libbpf 1.1."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class TestRun:
    """What a test run answered; `duration_ns`: mean of one repetition, `mark`: the packet's afterwards."""

    __test__ = False

    return_value: int
    data: bytes
    duration_ns: int
    mark: int = 0


class BpfProgram:
    """A program of the kernel; owns its file descriptor."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name

    @classmethod
    def open(cls, path: Path) -> BpfProgram:
        """The program pinned at `path`."""
        fd = libbpf().bpf_obj_get(os.fsencode(path))
        if fd < 0:
            raise BpfError(errno_of(fd), "open", str(path))
        return cls(fd, path.name)

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def program_id(self) -> int:
        return int(self._info().program_id)

    @property
    def verified_instructions(self) -> int:
        """Number of instructions that the verifier walked."""
        return int(self._info().verified_instructions)

    def pin(self, path: Path) -> None:
        """Pins at `path`, in place of what is pinned there."""
        scratch = path.with_name(f"{path.name}_new")
        scratch.unlink(missing_ok=True)
        result = libbpf().bpf_obj_pin(self._fd, os.fsencode(scratch))
        if result:
            raise BpfError(errno_of(result), "pin", str(path))
        path.unlink(missing_ok=True)  # bpffs renames, but not over an existing file on kernels before 6.x
        scratch.rename(path)

    def test_run(self, packet: bytes, *, repeat: int = 1, ifindex: int = 0, mark: int = 0) -> TestRun:
        """Runs on `packet` (Ethernet header first). `ifindex`: an interface of this namespace, 0 = lo."""
        output = ctypes.create_string_buffer(len(packet) + _OUTPUT_SPACE)
        context = ctypes.create_string_buffer(_SKB_CONTEXT_SIZE)
        ctypes.c_uint32.from_buffer(context, _SKB_IFINDEX_OFFSET).value = ifindex
        ctypes.c_uint32.from_buffer(context, _SKB_MARK_OFFSET).value = mark
        options = _TestRunOptions(
            sz=ctypes.sizeof(_TestRunOptions),
            data_in=packet,
            data_out=ctypes.addressof(output),
            data_size_in=len(packet),
            data_size_out=len(output),
            repeat=repeat,
        )
        if ifindex or mark:
            options.ctx_in = ctypes.addressof(context)
            options.ctx_size_in = _SKB_CONTEXT_SIZE
        after = ctypes.create_string_buffer(_SKB_CONTEXT_SIZE)
        options.ctx_out = ctypes.addressof(after)
        options.ctx_size_out = _SKB_CONTEXT_SIZE
        result = libbpf().bpf_prog_test_run_opts(self._fd, ctypes.byref(options))
        if result:
            raise BpfError(errno_of(result), "test run", self.name)
        return TestRun(
            options.retval,
            output.raw[: options.data_size_out],
            options.duration,
            ctypes.c_uint32.from_buffer(after, _SKB_MARK_OFFSET).value,
        )

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _info(self) -> _ProgramInfo:
        info = _ProgramInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        result = libbpf().bpf_obj_get_info_by_fd(self._fd, ctypes.byref(info), ctypes.byref(size))
        if result:
            raise BpfError(errno_of(result), "inspect", self.name)
        return info
