"""An HTTP/2 client that may say anything, for tests of servers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from hpack.hpack import Decoder, Encoder

from axoneme.lib.h2server import frames
from axoneme.lib.h2server.frames import Frame, FrameReader
from axoneme.lib.tls import TlsFiles
from tests.conftest import TRUST_DOMAIN

SECONDS = 20.0


def request_fields(path: str, **changed: str) -> list[tuple[str, str]]:
    """Fields of a call; `changed` replaces (`_` stands for `-`), an empty value leaves one out."""
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": path,
        ":authority": "identity",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    fields.update({name.replace("_", "-"): value for name, value in changed.items()})
    return [(name, value) for name, value in fields.items() if value]


@dataclass
class RawClient:
    """One connection. `frames` has everything that came."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    encoder: Encoder = field(default_factory=Encoder)
    decoder: Decoder = field(default_factory=Decoder)
    frames: list[Frame] = field(default_factory=list)
    ended: bool = False
    _parser: FrameReader = field(default_factory=FrameReader)

    def __post_init__(self) -> None:
        self._parser.feed(frames.PREFACE)  # a server says none

    def greet(self, **settings: int) -> None:
        """Preface and settings."""
        values = {frames.INITIAL_WINDOW_SIZE: settings["window"]} if "window" in settings else {}
        self.writer.write(frames.PREFACE + frames.settings(values))

    def block(self, path: str, **changed: str) -> bytes:
        """A header block."""
        return self.encoder.encode(request_fields(path, **changed))

    def call(self, stream_id: int, path: str, body: bytes = b"", **changed: str) -> None:
        """A whole call with one message."""
        message = b"\0" + len(body).to_bytes(4, "big") + body
        self.writer.write(
            frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, self.block(path, **changed))
            + frames.frame(frames.DATA, frames.END_STREAM, stream_id, message)
        )

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Sends until done or until the server has hung up."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            for piece in pieces:
                if self.writer.is_closing() or self.reader.at_eof():
                    return
                self.writer.write(piece)
                await self.writer.drain()
                await asyncio.sleep(0)  # drain does not give others their turn while there is room

    async def read(self) -> bool:
        """Reads once; False at the end."""
        try:
            data = await asyncio.wait_for(self.reader.read(1 << 16), SECONDS)
        except (ConnectionError, ssl.SSLError):
            data = b""
        self.frames += self._parser.feed(data)
        self.ended = not data
        return not self.ended

    async def until(self, kind: int, stream_id: int = 0, flags: int = 0) -> Frame:
        """The first frame of a kind with all of the flags."""
        while True:
            for one in self.frames:
                if (one.kind, one.stream_id) == (kind, stream_id) and one.flags & flags == flags:
                    return one
            assert await self.read(), f"the server hung up: {self.frames}"

    async def until_closed(self) -> None:
        """Reads to the end."""
        while await self.read():
            pass

    async def fields(self, stream_id: int) -> dict[str, str]:
        """All fields of the answer on a stream, in the order in which their blocks came."""
        await self.until(frames.HEADERS, stream_id, frames.END_STREAM)
        found: dict[str, str] = {}
        for one in self.frames:
            if one.kind == frames.HEADERS and one.stream_id == stream_id:
                found.update((str(name), str(value)) for name, value in self.decoder.decode(one.payload))
        return found

    def goaway_code(self) -> int | None:
        """Error code of a GOAWAY that came."""
        codes = [int.from_bytes(one.payload[4:8], "big") for one in self.frames if one.kind == frames.GOAWAY]
        return codes[-1] if codes else None


@contextlib.asynccontextmanager
async def raw_client(port: int, files: TlsFiles | None, alpn: str = "h2") -> AsyncIterator[RawClient]:
    """A connection by mTLS, or plaintext without files."""
    context = None
    if files is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(files.ca)
        context.load_cert_chain(files.cert, files.key)
        context.set_alpn_protocols([alpn])
    name = f"identity.{TRUST_DOMAIN}" if context else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
