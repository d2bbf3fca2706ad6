"""Many datagrams by one system call: recvmmsg(2) into memory that stays.

    slot n:  sender's sockaddr │ control message │ datagram        read back by slicing: bytes, one copy

The standard library takes one datagram at a time and turns its sender into text, which costs more than all
that is done with it. The lock of the interpreter is kept (PyDLL): the call never waits, and giving the lock
away for two microseconds could mean to wait for another thread's turn.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from typing import Final

MESSAGE_BYTES: Final = 64  # struct mmsghdr of 64-bit Linux: msghdr 56, length 4, padding 4
VECTOR_BYTES: Final = 16  # struct iovec
# Name and its length, vectors and their number, control message and its length, flags, length of the datagram
_message = struct.Struct("=QI4xQQQQI4xI4x")
_vector = struct.Struct("=QQ")
_results = struct.Struct("=40xQI4xI4x").iter_unpack  # length of control, flags, length
_result = struct.Struct("=QI4xI").unpack_from
_LINE: Final = 64
_DONT_WAIT: Final = int(socket.MSG_DONTWAIT)
_recvmmsg = ctypes.PyDLL(None, use_errno=True).recvmmsg

TRUNCATED: Final = int(socket.MSG_TRUNC)  # as an enum it costs ten times as much

# The sender's sockaddr, padded, with the control message; the datagram; flags.
Datagram = tuple[bytes, bytes, int]


class Inbox:
    """Memory for datagrams of up to `size` bytes, `slots` at a time, of sockets of one kind.

    `name` and `control`: bytes of the sender's address and of control messages that every datagram has; 0 for
    connected sockets. One that lacks its control message is left out.
    """

    def __init__(self, slots: int, size: int, *, name: int = 0, control: int = 0) -> None:
        self.head = name + control
        # Not a power of two: slots would share the same lines of the processor's cache.
        stride = (self.head + size) // _LINE * _LINE + 3 * _LINE
        self._slots, self._control = slots, control
        self._memory = mmap.mmap(-1, slots * stride)
        self._headers = mmap.mmap(-1, slots * (MESSAGE_BYTES + VECTOR_BYTES))
        self._table = _address(self._headers)
        self._pointer = ctypes.c_void_p(self._table)
        self._starts = range(0, slots * stride, stride)
        start = _address(self._memory)
        for slot in range(slots):
            here, vector = start + slot * stride, slots * MESSAGE_BYTES + slot * VECTOR_BYTES
            _vector.pack_into(self._headers, vector, here + self.head, size)
            names, controls = here if name else 0, here + name if control else 0
            values = (names, name, self._table + vector, 1, controls, control, 0, 0)
            _message.pack_into(self._headers, slot * MESSAGE_BYTES, *values)

    def receive(self, descriptor: int, limit: int) -> list[Datagram]:
        """What waits in a socket, oldest first; at most `limit`, or none. Raises OSError."""
        limit = min(limit, self._slots)
        count = _recvmmsg(descriptor, self._pointer, limit, _DONT_WAIT, None)
        if count <= 0:
            return self._nothing(count)
        memory, head, control = self._memory, self.head, self._control
        if count == 1:
            controls, flags, length = _result(self._headers, 40)
            if controls == control:
                return [(memory[:head], memory[head : head + length], flags)]
        results = _results(self._headers[: count * MESSAGE_BYTES])
        found = [
            (memory[at : (start := at + head)], memory[start : start + length], flags)
            for (controls, flags, length), at in zip(results, self._starts, strict=False)
            if controls == control
        ]
        if len(found) != count:
            self._repair()
        return found

    def _nothing(self, count: int) -> list[Datagram]:
        code = ctypes.get_errno() if count < 0 else 0
        if code and code != errno.EAGAIN:
            raise OSError(code, os.strerror(code))
        return []

    def _repair(self) -> None:
        """The kernel wrote other lengths of control messages over ours."""
        for slot in range(self._slots):
            struct.pack_into("=Q", self._headers, slot * MESSAGE_BYTES + 40, self._control)


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
