"""The HTTP/2 of one connection, as a server that speaks only gRPC: no socket, no clock, no await.

    bytes ─ receive ─► FrameReader ─► one method for each kind of frame ─► streams ─► StreamListener
    bytes ◄─ flush ── Outbox ◄── send_head, write, finish, reset

Follows RFC 9113; what the state tables of other implementations allow beyond a client that makes calls
(push, priorities) is refused or ignored. Everything that costs the sender nothing has a budget.
"""

from __future__ import annotations

from collections.abc import Callable

from axoneme.lib.h2server import frames, responsehead
from axoneme.lib.h2server.budgets import Budgets
from axoneme.lib.h2server.faults import CallFault, ConnectionFault, ErrorCode, HttpFault, StreamFault
from axoneme.lib.h2server.frames import Frame, FrameReader
from axoneme.lib.h2server.headerblocks import Block, HeaderBlocks
from axoneme.lib.h2server.limits import DEFAULT_WINDOW, Limits
from axoneme.lib.h2server.outbox import Outbox
from axoneme.lib.h2server.requesthead import RequestHead, read_head
from axoneme.lib.h2server.statuscodes import STATUS_NUMBER
from axoneme.lib.h2server.stream import Stream, StreamListener

CONNECTION_WINDOW = 1024 * 1024

Start = Callable[[Stream, RequestHead], StreamListener]


class Connection:
    """State of one connection. `start` is told of each new call; `now` is monotonic time in seconds."""

    def __init__(self, limits: Limits, start: Start, now: float) -> None:
        self.streams: dict[int, Stream] = {}
        self.calls = 0
        self.pinged = False
        self.outbox = Outbox(limits)
        self._limits = limits
        self._start = start
        self._now = now
        self._reader = FrameReader()
        self._blocks = HeaderBlocks(limits.hard_metadata_bytes)
        self._budgets = Budgets(now)
        self._last_id = 0
        self._settled = self._draining = False
        self._initial_window = DEFAULT_WINDOW
        self._receive_left = CONNECTION_WINDOW
        self._by_kind: dict[int, Callable[[Frame], None]] = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_headers,
            frames.RST_STREAM: self._on_rst_stream,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push_promise,
            frames.PING: self._on_ping,
            frames.WINDOW_UPDATE: self._on_window_update,
            frames.CONTINUATION: self._on_continuation,
        }
        self._greet()

    def _greet(self) -> None:
        self.outbox.control(
            frames.settings(
                {
                    frames.MAX_CONCURRENT_STREAMS: self._limits.streams,
                    frames.MAX_HEADER_LIST_SIZE: self._limits.metadata_bytes,
                }
            )
        )
        self.outbox.control(frames.window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW))

    @property
    def settled(self) -> bool:
        """True when the client has said its settings: it speaks HTTP/2."""
        return self._settled

    def receive(self, data: bytes, now: float) -> None:
        """Takes in what arrived. Raises ConnectionFault; the connection is of no use then."""
        self._now = now
        for frame in self._reader.feed(data):
            try:
                self._on_frame(frame)
            except StreamFault as fault:
                self._budgets.spend("refused", now)
                self._reset(frame.stream_id, fault.code)

    def _on_frame(self, frame: Frame) -> None:
        if not self._settled and frame.kind != frames.SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS must come first")
        if self._blocks.unfinished and frame.kind != frames.CONTINUATION:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block was not finished")
        on_kind = self._by_kind.get(frame.kind)
        if on_kind is None:
            self._budgets.spend("other", self._now)
        else:
            on_kind(frame)

    def _on_settings(self, frame: Frame) -> None:
        if frame.stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        self._budgets.spend("settings", self._now)
        if frame.flags & frames.ACK:
            return
        self._settled = True
        for key, value in frames.read_settings(frame.payload):
            if key == frames.INITIAL_WINDOW_SIZE:
                self._set_initial_window(value)
        self.outbox.control(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _set_initial_window(self, value: int) -> None:
        """Changes all open windows by the difference; they may become negative (section 6.9.2)."""
        difference, self._initial_window = value - self._initial_window, value
        for stream in self.streams.values():
            stream.send_left += difference
            if stream.send_left > frames.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "window overflow")
            if difference > 0 and stream.out:
                self.outbox.wake(stream)

    def _on_push_promise(self, frame: Frame) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"PUSH_PROMISE on stream {frame.stream_id}")

    def _on_ping(self, frame: Frame) -> None:
        if frame.stream_id or len(frame.payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "malformed PING")
        self._budgets.spend("ping", self._now)
        if frame.flags & frames.ACK:
            self.pinged = False
            return
        self.outbox.control(frames.frame(frames.PING, frames.ACK, 0, frame.payload))

    def _on_window_update(self, frame: Frame) -> None:
        increment = frames.number(frame.payload, "WINDOW_UPDATE") & frames.STREAM_MASK
        self._budgets.spend("window", self._now)
        if not frame.stream_id:
            self._widen_connection(increment)
            return
        stream = self._known(frame)
        if stream is None:
            return
        if not increment:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "empty WINDOW_UPDATE")
        stream.send_left += increment
        if stream.send_left > frames.MAX_WINDOW:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "window overflow")
        if stream.out:
            self.outbox.wake(stream)

    def _widen_connection(self, increment: int) -> None:
        self.outbox.send_left += increment
        if not increment:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "empty WINDOW_UPDATE")
        if self.outbox.send_left > frames.MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "window overflow")

    def _known(self, frame: Frame) -> Stream | None:
        """The stream, None for one that is over. Raises ConnectionFault for one that never was."""
        if not frame.stream_id or frame.stream_id > self._last_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"frame {frame.kind} on an idle stream")
        return self.streams.get(frame.stream_id)

    def _on_rst_stream(self, frame: Frame) -> None:
        frames.number(frame.payload, "RST_STREAM")
        self._budgets.spend("reset", self._now)
        stream = self._known(frame)
        if stream is not None:
            self._drop(stream)
            if stream.listener is not None:
                stream.listener.on_reset()

    def _on_headers(self, frame: Frame) -> None:
        self._on_block(self._blocks.begin(frame))

    def _on_continuation(self, frame: Frame) -> None:
        self._on_block(self._blocks.go_on(frame))

    def _on_block(self, block: Block | None) -> None:
        if block is None:
            return
        stream = self.streams.get(block.stream_id)
        if stream is not None:
            self._on_trailers(stream, block.ended)
        elif block.stream_id <= self._last_id:
            self._budgets.spend("other", self._now)  # trailers of a call that has ended meanwhile
        else:
            self._last_id = block.stream_id
            self._open(block)

    def _on_trailers(self, stream: Stream, ended: bool) -> None:
        if stream.remote_ended or not ended:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "header block within a request")
        self._end_request(stream)

    def _open(self, block: Block) -> None:
        # A call ends twice: its handler here, and its stream when the client took the last of the answer.
        stream_id, busy = block.stream_id, max(self.calls, len(self.streams))
        if self._draining or busy >= self._limits.streams:
            raise StreamFault(ErrorCode.REFUSED_STREAM, "too many calls")
        stream = Stream(stream_id, self._initial_window, self._limits.receive_bytes)
        stream.remote_ended = block.ended
        try:
            head = read_head(block.fields, self._limits.metadata_bytes)
        except HttpFault as fault:
            self._budgets.spend("refused", self._now)
            self.outbox.head(stream_id, responsehead.http_block(fault.status), frames.END_STREAM)
            return
        except CallFault as fault:
            self._budgets.spend("refused", self._now)
            self.streams[stream_id] = stream
            self.finish(stream, STATUS_NUMBER[fault.code], fault.text)
            return
        self.streams[stream_id] = stream
        self.calls += 1
        stream.listener = self._start(stream, head)

    def _on_data(self, frame: Frame) -> None:
        size = len(frame.payload)
        self._receive_left -= size
        if self._receive_left < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "connection window exceeded")
        if self._receive_left < CONNECTION_WINDOW // 2:
            self.outbox.control(frames.window_update(0, CONNECTION_WINDOW - self._receive_left))
            self._receive_left = CONNECTION_WINDOW
        stream = self._known(frame)
        data = frames.unpadded(frame)
        if stream is None or not data:
            self._budgets.spend("empty", self._now)
        if stream is None or stream.trailers is not None:
            return
        if stream.remote_ended:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "data after the end")
        stream.receive_left -= size
        if stream.receive_left < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "stream window exceeded")
        stream.unreleased += size
        self._take_in(stream, data, bool(frame.flags & frames.END_STREAM))

    def _take_in(self, stream: Stream, data: bytes, ended: bool) -> None:
        try:
            stream.queue(stream.reader.feed(data))
            if ended and len(stream.reader):
                raise CallFault("INTERNAL", "the request ends within a message")
            if sum(one.buffered for one in self.streams.values()) > self._limits.buffered_bytes:
                raise CallFault("RESOURCE_EXHAUSTED", "too many bytes of requests wait on this connection")
        except CallFault as fault:
            stream.remote_ended = stream.remote_ended or ended
            if stream.listener is not None:
                stream.listener.on_fault(fault)
            return
        if ended:
            self._end_request(stream)
        elif stream.listener is not None:
            stream.listener.on_arrival()
        self._release(stream)

    def _end_request(self, stream: Stream) -> None:
        stream.remote_ended = True
        if stream.listener is not None:
            stream.listener.on_arrival()

    def _release(self, stream: Stream) -> None:
        size = stream.releasable()
        if size:
            stream.unreleased = 0
            stream.receive_left += size
            self.outbox.control(frames.window_update(stream.id, size))

    def take(self, stream: Stream) -> bytes:
        """The next message of a request, whose room the client gets back. Raises IndexError."""
        message = stream.take()
        if stream.id in self.streams:
            self._release(stream)
        return message

    def send_head(self, stream: Stream, metadata: responsehead.Metadata = ()) -> None:
        """Head of a response; once, before its first message."""
        stream.head_sent = True
        self.outbox.head(stream.id, responsehead.initial_block(metadata))

    def write(self, stream: Stream, data: bytes) -> None:
        """Messages with their prefixes."""
        stream.out.add(data)
        self.outbox.wake(stream)

    def finish(self, stream: Stream, code: int, text: str = "", metadata: responsehead.Metadata = ()) -> None:
        """Trailers, behind all that was written."""
        block = responsehead.trailer_block(code, text, metadata)
        stream.trailers = block if stream.head_sent else responsehead.initial_block() + block
        stream.head_sent = True
        self.outbox.wake(stream)

    def cut(self, stream: Stream) -> None:
        """Forgets what a reader did not take, so that the status can follow at once."""
        stream.out.clear()

    def call_ended(self) -> None:
        """A handler has ended: only now its place is free, however early the client left (rapid reset)."""
        self.calls -= 1

    def flush(self) -> bytes:
        """What may be sent now."""
        data, ended = self.outbox.flush()
        for stream in ended:
            self._drop(stream)
        return data

    def ping(self) -> None:
        """Asks whether the client is alive; `pinged` is false again when it answered."""
        self.pinged = True
        self.outbox.control(frames.frame(frames.PING, 0, 0, b"axoneme\0"))

    def drain(self) -> None:
        """No further calls; clients send those that come too late elsewhere."""
        if not self._draining:
            self._draining = True
            self.outbox.control(frames.goaway(self._last_id, ErrorCode.NO_ERROR, "the server stops"))

    def last_words(self, fault: ConnectionFault) -> bytes:
        """What is said before a connection is closed for a fault."""
        return frames.goaway(self._last_id, fault.code, fault.text)

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        stream = self.streams.get(stream_id)
        self.outbox.control(frames.rst_stream(stream_id, code))
        if stream is not None:
            self._drop(stream)
            if stream.listener is not None:
                stream.listener.on_reset()

    def _drop(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        self.outbox.forget(stream)
