"""The protocol without I/O: budgets, heads, trailers, messages, frames, connections fed with anything."""

from __future__ import annotations

import pytest
from hpack.hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.h2server import frames, responsehead
from axoneme.lib.h2server.budgets import Budgets, Rate
from axoneme.lib.h2server.connection import CONNECTION_WINDOW, Connection
from axoneme.lib.h2server.faults import CallFault, ConnectionFault, ErrorCode
from axoneme.lib.h2server.frames import FrameReader
from axoneme.lib.h2server.limits import FRAME_BYTES, Limits, limits_of
from axoneme.lib.h2server.messages import MessageReader, framed, prefix
from axoneme.lib.h2server.pending import Pending
from axoneme.lib.h2server.requesthead import RequestHead, read_head, read_timeout
from axoneme.lib.h2server.stream import Stream

HEAD = [
    (":method", "POST"), (":scheme", "https"), (":path", "/a.B/C"), ("te", "trailers"),
    ("content-type", "application/grpc"),
]  # fmt: skip


class Listener:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_arrival(self) -> None:
        self.told.append("arrival")

    def on_room(self) -> None:
        self.told.append("room")

    def on_reset(self) -> None:
        self.told.append("reset")

    def on_fault(self, fault: CallFault) -> None:
        self.told.append(fault.code)


class Server:
    """A greeted connection with one listener for all calls."""

    def __init__(self) -> None:
        self.listener = Listener()
        self.streams: list[Stream] = []
        self.heads: list[RequestHead] = []
        self.connection = Connection(Limits(), self.start, 0.0)
        self.encoder = Encoder()
        self.receive(frames.PREFACE + frames.settings({}))
        self.sent()

    def start(self, stream: Stream, head: RequestHead) -> Listener:
        self.streams.append(stream)
        self.heads.append(head)
        return self.listener

    def receive(self, data: bytes) -> None:
        self.connection.receive(data, 0.0)

    def sent(self) -> list[frames.Frame]:
        reader = FrameReader()
        reader.feed(frames.PREFACE)
        return reader.feed(self.connection.flush())

    def open(self, stream_id: int, flags: int = frames.END_HEADERS) -> None:
        self.receive(frames.frame(frames.HEADERS, flags, stream_id, self.encoder.encode(HEAD)))


def test_a_budget_refills_with_time() -> None:
    budgets = Budgets(0.0, {"ping": Rate(2, 1)})
    budgets.spend("ping", 0.0)
    budgets.spend("ping", 0.0)
    budgets.spend("ping", 1.0)
    with pytest.raises(ConnectionFault) as caught:
        budgets.spend("ping", 1.5)
    assert (caught.value.code, caught.value.text) == (ErrorCode.ENHANCE_YOUR_CALM, "too_many_ping")


@given(st.lists(st.binary(max_size=5_000), max_size=20), st.integers(1, 400))
def test_messages_survive_any_cuts(messages: list[bytes], step: int) -> None:
    data, reader, found = framed(messages, 10_000), MessageReader(10_000), list[bytes]()
    assert data == b"".join(prefix(len(one)) + one for one in messages)
    for start in range(0, len(data), step):
        found += reader.feed(data[start : start + step])
    assert found == messages
    assert not len(reader)


def test_long_and_compressed_messages_are_refused_at_their_prefix() -> None:
    with pytest.raises(CallFault, match="larger than max"):
        MessageReader(10).feed(prefix(11))
    with pytest.raises(CallFault, match="compressed"):
        MessageReader(10).feed(b"\1\0\0\0\1")
    with pytest.raises(CallFault, match="larger than max"):
        framed([b"x" * 11], 10)


@given(st.lists(st.binary(min_size=1, max_size=40_000), min_size=1, max_size=6), st.integers(1, 50_000))
def test_pending_bytes_come_out_as_they_went_in(chunks: list[bytes], step: int) -> None:
    pending, found = Pending(), bytearray()
    for chunk in chunks:
        pending.add(chunk)
        if len(pending) > step:
            pieces = pending.cut(step)
            assert all(len(piece) <= FRAME_BYTES for piece in pieces)
            found += b"".join(pieces)
    found += b"".join(pending.cut(len(pending))) if len(pending) else b""
    assert bytes(found) == b"".join(chunks)
    assert len(pending) == 0


@given(st.text(max_size=200))
def test_messages_of_statuses_are_percent_encoded(text: str) -> None:
    from urllib.parse import unquote

    encoded = responsehead.percent_encoded(text)
    assert all(0x20 <= byte < 0x7F for byte in encoded)
    assert unquote(encoded.decode("ascii")) == text.encode("utf-8", "replace").decode()


@given(st.binary(max_size=300), st.integers(0, 16))
def test_trailers_are_plain_hpack(value: bytes, code: int) -> None:
    block = responsehead.trailer_block(code, "no", [("x-bin", value), ("y", "z" * 300)])
    fields = Decoder().decode(block)
    assert [str(name) for name, _ in fields] == ["grpc-status", "grpc-message", "x-bin", "y"]
    assert fields[0][1] == str(code)
    raw = [(name.encode(), text.encode()) for name, text in [*HEAD, ("x-bin", str(fields[2][1]))]]
    assert read_head(raw, 8_192).metadata == (("x-bin", value),)


@pytest.mark.parametrize(("value", "seconds"), [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004)])
def test_timeouts(value: bytes, seconds: float) -> None:
    assert read_timeout(value) == seconds


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"-1S", b"1.5S", b"123456789S", "٣S".encode()])
def test_broken_timeouts(value: bytes) -> None:
    with pytest.raises(CallFault):
        read_timeout(value)


@given(st.binary(max_size=600))
def test_nothing_but_faults_comes_of_any_bytes(data: bytes) -> None:
    server = Server()
    try:
        server.receive(data)
        server.sent()
    except ConnectionFault:
        pass


@given(
    st.lists(
        st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 7), st.binary(max_size=40)),
        max_size=12,
    )
)
def test_nothing_but_faults_comes_of_any_frames(parts: list[tuple[int, int, int, bytes]]) -> None:
    server = Server()
    server.open(1)
    try:
        for kind, flags, stream_id, payload in parts:
            server.receive(frames.frame(kind, flags, stream_id, payload))
            server.sent()
    except ConnectionFault:
        pass


def test_both_windows_bound_what_is_sent() -> None:
    server = Server()
    for stream_id in (1, 3):
        server.open(stream_id)
        server.connection.send_head(server.streams[-1])
        server.connection.write(server.streams[-1], bytes(60_000))
        server.connection.finish(server.streams[-1], 0)
    first = [one for one in server.sent() if one.kind == frames.DATA]
    assert sum(len(one.payload) for one in first) == 65_535
    assert max(len(one.payload) for one in first) == FRAME_BYTES
    server.receive(frames.window_update(0, 100_000))
    rest = server.sent()
    assert sum(len(one.payload) for one in rest if one.kind == frames.DATA) == 120_000 - 65_535
    assert rest[-2].flags & frames.END_STREAM
    assert not server.connection.streams


def test_a_handler_that_does_not_read_gets_no_more_than_a_window() -> None:
    server = Server()
    server.open(1)
    message = prefix(16_000) + bytes(16_000)
    sent = 0
    while server.streams[0].receive_left >= len(message):
        server.receive(frames.frame(frames.DATA, 0, 1, message[:FRAME_BYTES]))
        sent += 1
        assert sent < 20
    before = server.streams[0].receive_left
    while server.streams[0].messages:
        server.connection.take(server.streams[0])
    assert server.streams[0].receive_left > before


def test_the_window_of_the_connection_comes_back() -> None:
    server = Server()
    server.open(1)
    for _ in range(CONNECTION_WINDOW // FRAME_BYTES + 10):
        server.receive(frames.frame(frames.DATA, 0, 1, prefix(FRAME_BYTES - 5) + bytes(FRAME_BYTES - 5)))
        while server.streams[0].messages:
            server.connection.take(server.streams[0])
    assert server.listener.told.count("arrival") > 60


def test_a_reset_call_keeps_its_place_until_its_handler_has_ended() -> None:
    server = Server()
    for stream_id in range(1, 2 * Limits().streams + 1, 2):
        server.open(stream_id)
        server.receive(frames.rst_stream(stream_id, ErrorCode.CANCEL))
    server.open(2 * Limits().streams + 1)
    assert server.sent()[-1].kind == frames.RST_STREAM
    server.connection.call_ended()
    server.open(2 * Limits().streams + 3)
    assert len(server.streams) == Limits().streams + 1


def test_a_request_that_ends_within_a_message_is_a_fault() -> None:
    server = Server()
    server.open(1)
    server.receive(frames.frame(frames.DATA, frames.END_STREAM, 1, prefix(9) + b"short"))
    assert server.listener.told == ["INTERNAL"]


def test_a_changed_initial_window_moves_open_streams() -> None:
    server = Server()
    server.open(1)
    server.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}))
    assert server.streams[0].send_left == 10
    with pytest.raises(ConnectionFault):
        server.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}))


def test_limits_follow_the_arguments_of_grpc() -> None:
    limits = limits_of({"grpc.max_receive_message_length": 7, "grpc.keepalive_time_ms": 1})
    assert limits == Limits(receive_bytes=7)
    with pytest.raises(ValueError, match="limit"):
        limits_of({"grpc.max_receive_message_length": -1})
