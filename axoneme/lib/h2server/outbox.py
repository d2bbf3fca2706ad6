"""What one connection has to send: answers of the protocol first, then data within the windows. Pure.

Messages of a stream lie one behind the other, so that many of them leave in one frame and many frames in one
write; that, not the frames, is what a message costs.
"""

from __future__ import annotations

from axoneme.lib.h2server import frames
from axoneme.lib.h2server.faults import ConnectionFault, ErrorCode
from axoneme.lib.h2server.limits import DEFAULT_WINDOW, FRAME_BYTES, Limits
from axoneme.lib.h2server.stream import Stream


class Outbox:
    """Bytes that wait, by stream; the windows are what the client grants."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._control = bytearray()
        self._ready: dict[int, Stream] = {}
        self.send_left = DEFAULT_WINDOW

    @property
    def pending(self) -> bool:
        """True when `flush` would give something."""
        return bool(self._control) or (bool(self._ready) and self.send_left > 0)

    def control(self, data: bytes) -> None:
        """An answer that needs no window. Raises ConnectionFault when nobody reads them."""
        self._control += data
        if len(self._control) > self._limits.control_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "answers are not read")

    def head(self, stream_id: int, block: bytes, flags: int = 0) -> None:
        """A header block, in as many frames as it needs."""
        first, rest = block[:FRAME_BYTES], block[FRAME_BYTES:]
        kind = frames.HEADERS
        while rest:
            self.control(frames.frame(kind, flags, stream_id, first))
            kind, flags = frames.CONTINUATION, 0
            first, rest = rest[:FRAME_BYTES], rest[FRAME_BYTES:]
        self.control(frames.frame(kind, flags | frames.END_HEADERS, stream_id, first))

    def wake(self, stream: Stream) -> None:
        """A stream has something to send, or room for what it has."""
        self._ready[stream.id] = stream

    def forget(self, stream: Stream) -> None:
        """Drops what a stream had."""
        self._ready.pop(stream.id, None)
        stream.out.clear()

    def flush(self) -> tuple[bytes, list[Stream]]:
        """What may leave now, about `flush_bytes` of it, and the streams that thereby ended."""
        ended: list[Stream] = []
        parts: list[bytes | memoryview] = []
        left = self._limits.flush_bytes
        for stream in list(self._ready.values()):
            del self._ready[stream.id]
            left -= self._take(stream, left, parts)
            if stream.out:
                if stream.send_left > 0:
                    self._ready[stream.id] = stream  # behind the others
            elif stream.trailers is not None:
                self._close(stream, parts)
                ended.append(stream)
        # Heads were queued before the data that follows them; trailers are behind it in `parts`.
        data = b"".join((self._control, *parts))
        self._control.clear()
        return data, ended

    def _take(self, stream: Stream, left: int, parts: list[bytes | memoryview]) -> int:
        out = stream.out
        size = min(len(out), stream.send_left, self.send_left, left)
        if size <= 0:
            return 0
        for piece in out.cut(size):
            parts += (frames.frame_head(len(piece), frames.DATA, 0, stream.id), piece)
        stream.send_left -= size
        self.send_left -= size
        if len(out) < self._limits.stream_buffer_bytes // 2 and stream.listener is not None:
            stream.listener.on_room()
        return size

    def _close(self, stream: Stream, parts: list[bytes | memoryview]) -> None:
        """Trailers, and a reset where the client has not ended its side (RFC 9113 section 8.1)."""
        assert stream.trailers is not None
        flags = frames.END_HEADERS | frames.END_STREAM
        parts.append(frames.frame(frames.HEADERS, flags, stream.id, stream.trailers[:FRAME_BYTES]))
        if not stream.remote_ended:
            parts.append(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))
