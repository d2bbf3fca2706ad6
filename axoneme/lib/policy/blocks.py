"""How blocks of ports lie in one another: which ones are around one, and which ones narrower ones fill.

Two blocks either lie one in the other or have no port in common. Pure.
"""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from axoneme.lib.policy.model import PortBlock
from axoneme.lib.policy.ports import PORT_BITS


def around(block: PortBlock, lengths: AbstractSet[int]) -> list[PortBlock]:
    """The block and all that cover it, the narrowest first, as far as their prefix lengths are in use.

    Few of the 18 widths of a block occur in a policy: only those need a look.
    """
    return [one for one in _chain(block) if one.prefix_length in lengths]


class OrderedBlocks:
    """Blocks in an order in which those inside another one follow it directly."""

    def __init__(self, blocks: Iterable[PortBlock]) -> None:
        self._blocks = sorted(blocks, key=_position)
        self._positions = [_position(block) for block in self._blocks]

    def inside(self, block: PortBlock) -> list[PortBlock]:
        """Those that lie in a block of one protocol, except itself."""
        start = bisect_right(self._positions, _position(block))
        end = bisect_left(self._positions, _position(block) - block.prefix_length + (_size(block) << 5))
        return self._blocks[start:end]


def filled(block: PortBlock, narrower: Iterable[PortBlock]) -> bool:
    """Whether blocks inside a block of one protocol leave none of its ports."""
    position = block.port
    for one in sorted(narrower, key=_position):
        if one.port > position:
            return False
        position = max(position, one.port + _size(one))
    return position >= block.port + _size(block)


def filled_blocks(blocks: Iterable[PortBlock]) -> set[PortBlock]:
    """Those of some blocks of which others of them leave no port.

    Never the block of every protocol: packets of protocol 0 match nothing narrower.
    """
    found = set()
    left_of_open: list[tuple[PortBlock, list[int]]] = []
    for block in sorted(blocks, key=_position):
        while left_of_open and not left_of_open[-1][0].covers(block):
            left_of_open.pop()
        if left_of_open:
            outer, left = left_of_open[-1]
            left[0] -= _size(block)
            if outer.protocol != 0 and left[0] == 0:
                found.add(outer)
        left_of_open.append((block, [_size(block)]))
    return found


def _position(block: PortBlock) -> int:
    """Grows with protocol, first port and narrowness."""
    return block.protocol << 21 | block.port << 5 | block.prefix_length


def _size(block: PortBlock) -> int:
    return 1 << (PORT_BITS - block.prefix_length)


@functools.lru_cache(maxsize=65_536)
def _chain(block: PortBlock) -> tuple[PortBlock, ...]:
    return (block, *block.ancestors())
