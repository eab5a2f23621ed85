"""Tables of a trace as its file holds them, compressed: a statistic is unpacked when somebody asks for it.

Rules read less than half of the statistics, and a long run has gigabytes of them. Kept in memory is what the file holds
of each, so that the file can be closed, moved and deleted; that nothing in it is damaged is known before.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import TraceError

Floats: TypeAlias = NDArray[np.float32]

_CHECKSUM = 4  # bytes behind each chunk
_WIDTH = 4  # bytes of a number
_PIECE = 1 << 18  # words of which the sums are exact in float64, whatever the order
_DESCENDING = np.arange(_PIECE, 0, -1, dtype=np.float64)


class Packed(NamedTuple):
    """A table of float32, (step, site) or (row,), in chunks, each shuffled, deflated, and followed by its checksum.

    Attributes:
        shape: Of the table.
        chunk: Shape of a chunk.
        parts: Bytes of the chunks by the indices at which they begin; where there is none, all is NaN.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    parts: Mapping[tuple[int, ...], bytes]

    def unpacked(self) -> Floats:
        """The table.

        Raises:
            TraceError: A chunk holds something else than it should, though its checksum is right.
        """
        if not self.parts:
            return np.broadcast_to(np.float32(np.nan), self.shape)
        values = np.full(self.shape, np.nan, dtype=np.float32)
        for at, part in self.parts.items():
            inside = values[tuple(slice(start, start + size) for start, size in zip(at, self.chunk, strict=True))]
            inside[:] = _numbers(part, self.chunk)[tuple(slice(size) for size in inside.shape)]
        return values


class Statistics(Mapping[str, Floats]):
    """The statistics of a trace that was read: the tables by name, each unpacked when it is first asked for."""

    def __init__(self, tables: Mapping[str, Packed | Floats]) -> None:
        self._tables = dict(tables)

    @property
    def packed(self) -> frozenset[str]:
        """Names of those that nobody has asked for."""
        return frozenset(name for name, table in self._tables.items() if isinstance(table, Packed))

    def __getitem__(self, name: str) -> Floats:
        table = self._tables[name]
        if isinstance(table, Packed):
            table = self._tables[name] = table.unpacked()
        return table

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


def is_sound(part: bytes) -> bool:
    """Whether a chunk is what was written: its last four bytes are Fletcher's checksum of the others.

    Formula: a = Σ w_i, b = Σ (n − i) w_i over its n 16-bit words, i from 0, both in the ring of ones' complement.
    Source: H5_checksum_fletcher32 of the HDF5 library; Fletcher 1982.
    """
    data, checksum = part[:-_CHECKSUM], part[-_CHECKSUM:]
    words = np.frombuffer(data + bytes(len(data) % 2), dtype=">u2").astype(np.float64)
    a = b = 0
    for start in range(0, len(words), _PIECE):
        piece = words[start : start + _PIECE]
        b += a * len(piece) + int(piece @ _DESCENDING[_PIECE - len(piece) :])
        a += int(piece.sum())
    # 0 and 65535 are the same number there, and HDF5 writes 65535
    a, b = ((total - 1) % 0xFFFF + 1 if total else 0 for total in (a, b))
    return int.from_bytes(checksum, "little") == b << 16 | a


def _numbers(part: bytes, shape: tuple[int, ...]) -> Floats:
    size = math.prod(shape) * _WIDTH
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(part[:-_CHECKSUM], size + 1)  # not more than that, whatever is in it
        whole = len(data) == size and inflate.eof
    except zlib.error:
        whole = False
    if not whole:
        raise TraceError("the trace was read from a file whose statistics are no numbers; record it again.")
    numbers = np.empty((size // _WIDTH, _WIDTH), dtype=np.uint8)
    for i, plane in enumerate(np.frombuffer(data, dtype=np.uint8).reshape(_WIDTH, -1)):
        numbers[:, i] = plane  # shuffled: first the first byte of all numbers, then the second of all
    return numbers.view("<f4").reshape(shape)
