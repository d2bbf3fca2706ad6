"""The ring reader against an imitation of the kernel's side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.flows.ring import BUSY, DISCARD, RingReader
from tests.unit.shim.flows.scene import event

PAGE = 4096


class FakeRing:
    """Writes as the kernel does: positions in the first pages, data that appears twice."""

    def __init__(self, size_bytes: int = 1 << 12) -> None:
        self.size_bytes = size_bytes
        self.consumer = bytearray(PAGE)
        self.shared = bytearray(PAGE + 2 * size_bytes)
        self.reader = RingReader(self.consumer, self.shared, size_bytes, -1)

    @property
    def consumed(self) -> int:
        return int.from_bytes(self.consumer[:8], "little")

    @property
    def produced(self) -> int:
        return int.from_bytes(self.shared[:8], "little")

    def write(self, payload: bytes, flags: int = 0) -> bool:
        size = (8 + len(payload) + 7) & ~7
        if self.produced + size - self.consumed > self.size_bytes:
            return False
        self.put(self.produced, (len(payload) | flags).to_bytes(4, "little") + bytes(4) + payload)
        self.shared[:8] = (self.produced + size).to_bytes(8, "little")
        return True

    def put(self, position: int, data: bytes) -> None:
        for offset, byte in enumerate(data):
            slot = (position + offset) % self.size_bytes
            self.shared[PAGE + slot] = self.shared[PAGE + self.size_bytes + slot] = byte


def sample(number: int) -> bytes:
    return event(time_ns=number).tobytes()


def test_bulk_copy_returns_records_in_order_and_frees_the_space() -> None:
    ring = FakeRing()
    for number in range(10):
        assert ring.write(sample(number))
    assert ring.reader.read()["time_ns"].tolist() == list(range(10))
    assert ring.consumed == ring.produced
    assert len(ring.reader.read()) == 0
    assert ring.reader.pending_bytes() == 0


def test_records_are_copies() -> None:
    ring = FakeRing()
    ring.write(sample(1))
    records = ring.reader.read()
    ring.put(0, b"\xff" * 104)
    assert records["time_ns"].tolist() == [1]


def test_a_record_being_written_stops_the_reader_until_it_is_committed() -> None:
    ring = FakeRing()
    ring.write(sample(1))
    ring.write(sample(2), BUSY)
    ring.write(sample(3))
    assert ring.reader.read()["time_ns"].tolist() == [1]
    ring.put(104, (96).to_bytes(4, "little"))
    assert ring.reader.read()["time_ns"].tolist() == [2, 3]


def test_discarded_records_are_skipped() -> None:
    ring = FakeRing()
    for number, flags in enumerate([DISCARD, 0, DISCARD, DISCARD, 0]):
        ring.write(sample(number), flags)
    assert ring.reader.read()["time_ns"].tolist() == [1, 4]
    assert ring.reader.unknown_records == 0


def test_records_of_another_size_are_counted_and_skipped() -> None:
    ring = FakeRing()
    ring.write(sample(1))
    ring.write(b"\1" * 40)
    ring.write(sample(2))
    ring.write(b"\1" * 40, DISCARD)
    ring.write(sample(3))
    assert ring.reader.read()["time_ns"].tolist() == [1, 2, 3]
    assert ring.reader.unknown_records == 1


def test_a_read_is_bounded() -> None:
    ring = FakeRing()
    for number in range(10):
        ring.write(sample(number))
    assert len(ring.reader.read(4)) == 4
    assert ring.reader.read(100)["time_ns"].tolist() == list(range(4, 10))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 0, 0, DISCARD]), st.sampled_from([96, 96, 96, 16]), st.booleans()),
        max_size=200,
    )
)
def test_every_committed_record_arrives_once_whatever_the_mix(steps: list[tuple[int, int, bool]]) -> None:
    ring = FakeRing(1 << 10)
    sent: list[int] = []
    got: list[int] = []
    for number, (flags, length, read) in enumerate(steps):
        payload = sample(number) if length == 96 else bytes(length)
        if ring.write(payload, flags) and not flags and length == 96:
            sent.append(number)
        if read:
            got += ring.reader.read()["time_ns"].tolist()
    got += ring.reader.read()["time_ns"].tolist()
    assert got == sent


def test_only_a_map_can_be_opened(tmp_path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="not a BPF map"):
        RingReader.from_fd(file.fileno())


def test_slots_are_views() -> None:
    ring = FakeRing()
    assert ring.reader.read().dtype.itemsize == 96
    assert isinstance(ring.reader.read(), np.ndarray)
