"""HDF5 files that were not closed, because they are still written or their writer was killed, as if they had been.

HDF5 itself opens such a file with `swmr=True` only, and then takes damage for a write in progress: it tries again up to
a hundred times, and each time it waits twice as long, so on a truncated file it hangs for ever (HDF5 2.0; the setting,
H5Pset_metadata_read_attempts, is not in h5py). Here a reader sees the bytes of the file as they are, but for the
superblock: there the marks of an open file are cleared. Damage is then an error at once, and who reads along with a
running writer, and finds a block half written, reads again.
"""

import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SIGNATURE = b"\x89HDF\r\n\x1a\n"

# Superblock, version 3: signature, version, sizes of offsets and lengths, flags; base, extension, end of file, root;
# checksum. (HDF5 File Format Specification 3.0, II.A.)
_SUPERBLOCK = struct.Struct("<8s4B4QI")
_VERSION = 3
_WRITTEN = 0x01 | 0x04  # opened for writing, in SWMR mode
_BEYOND = 1 << 40  # the file may grow while it is read


def unclosed_file(path: str | Path) -> "UnclosedFile | None":
    """The file `path` for `h5py.File` to read, where it was written in SWMR mode and not closed; else None.

    Raises:
        OSError: The file cannot be read.
    """
    raw = open(path, "rb", buffering=0)  # noqa: SIM115 (it is handed on)
    start = raw.read(_SUPERBLOCK.size)
    if len(start) == _SUPERBLOCK.size:
        signature, version, offsets, lengths, flags, *addresses, checksum = _SUPERBLOCK.unpack(start)
        unclosed = flags & _WRITTEN == _WRITTEN
        if signature == SIGNATURE and version == _VERSION and unclosed and checksum == lookup3(start[:-4]):
            addresses[2] = end = raw.seek(0, io.SEEK_END) + _BEYOND
            fields = struct.pack("<8s4B4Q", signature, version, offsets, lengths, 0, *addresses)
            return UnclosedFile(raw, fields + struct.pack("<I", lookup3(fields)), end)
    raw.close()
    return None


class UnclosedFile(io.RawIOBase):
    """A file with another superblock, and zeros behind its end. What h5py calls of a file is there, no more."""

    def __init__(self, raw: io.FileIO, start: bytes, end: int) -> None:
        self._raw = raw
        self._start = start
        self._end = end
        self._position = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read anywhere."""
        return True

    def tell(self) -> int:
        """Where the next bytes are read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Sets where the next bytes are read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fills `buffer`."""
        view = memoryview(buffer).cast("B")
        self._raw.seek(self._position)
        filled = 0
        while filled < len(view):
            count = self._raw.readinto(view[filled:])
            if not count:
                view[filled:] = bytes(len(view) - filled)
                break
            filled += count
        for i in range(self._position, min(len(self._start), self._position + len(view))):
            view[i - self._position] = self._start[i]
        self._position += len(view)
        return len(view)

    def close(self) -> None:
        """Closes the file."""
        self._raw.close()
        super().close()


def lookup3(data: bytes) -> int:
    """Jenkins' hash, HDF5's checksum of metadata; here of a whole number of 32-bit words.

    Source: https://www.burtleburtle.net/bob/c/lookup3.c, hashlittle.
    """
    words: list[int] = list(struct.unpack(f"<{len(data) // 4}I", data))
    a: int
    b: int
    c: int
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    while len(words) > 3:
        a, b, c = ((x + y) & _MASK for x, y in zip((a, b, c), words, strict=False))
        del words[:3]
        for shift in (4, 6, 8, 16, 19, 4):
            a = ((a - c) ^ _rotated(c, shift)) & _MASK
            a, b, c = b, (c + b) & _MASK, a
    a, b, c = ((x + y) & _MASK for x, y in zip((a, b, c), [*words, 0, 0, 0], strict=False))
    changed, by, other = c, b, a
    for shift in (14, 11, 25, 16, 4, 14, 24):
        changed = ((changed ^ by) - _rotated(by, shift)) & _MASK
        changed, by, other = other, changed, by
    return by


_MASK = 0xFFFFFFFF


def _rotated(word: int, shift: int) -> int:
    return ((word << shift) | (word >> (32 - shift))) & _MASK
