"""Ranges of ports against plain numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.policy.ports import blocks_of_range, one_port
from tests.model.oracle_ports import block_bits


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_a_range_is_split_into_few_blocks_that_cover_exactly_it(one: int, other: int) -> None:
    """Blocks are aligned, disjoint, at most 30, and hold the ports of the range and no others."""
    first, last = min(one, other), max(one, other)
    blocks = blocks_of_range(6, first, last)
    assert len(blocks) <= 30
    position = first
    for block in blocks:
        assert block.port == position
        position += 1 << (16 - block.prefix_length)
    assert position == last + 1


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 65535))
def test_the_block_of_a_port_is_as_wide_as_it_can_be(one: int, other: int, port: int) -> None:
    """No aligned block around a port and inside the range is wider than the one that holds it."""
    first, last = min(one, other), max(one, other)
    found = [block for block in blocks_of_range(6, first, last) if block.covers(one_port(6, port))]
    assert len(found) == (first <= port <= last)
    for block in found:
        written = {"protocol": 6, "first": first, "last": last}
        assert block.specificity == block_bits(written, port, 6)
