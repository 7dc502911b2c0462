"""Streams of gzip: a descriptor in, a descriptor out, counted and hashed on the way."""

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

CHUNK = 256 * 1024
"""Bytes read at once: what comes of it stays in the processor's cache, which doubles the speed of isal."""

LEVEL = 2
"""Of isal's 0 to 3: as dense as 3 on logs and three times as fast."""

MAGIC = (
    b"\x1f\x8b", b"\x1f\x9d", b"\x1f\xa0", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18",
    b"\x02\x21\x4c\x18", b"\x5d\x00\x00", b"\x89LZO", b"LZIP", b"PK\x03\x04", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07",
)  # fmt: skip
"""How compressed files begin: gzip, compress, pack, bzip2, xz, zstd, lz4 (new, old), lzma, lzo, lzip, zip, 7z, rar."""


class Content(NamedTuple):
    """What a file holds, told without keeping it."""

    size: int
    sha256: bytes


class Damaged(Exception):
    """Not what was written, or no complete gzip stream."""


class TooLarge(Exception):
    """More bytes came out than were allowed."""


class _Digest:
    """SHA-256 on a second core, at most one piece behind."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, "sha256")
        self._behind: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def update(self, chunk: bytes) -> None:
        if self._behind is not None:
            self._behind.result()
        self._behind = self._thread.submit(self._sha256.update, chunk)

    def digest(self) -> bytes:
        if self._behind is not None:
            self._behind.result()
        return self._sha256.digest()


def compressor() -> Any:
    """The one of isal, ten times as fast as zlib; zlib's where isal is not installed."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compressobj(6, zlib.DEFLATED, 31)
    return isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, 31)


def _decompressor() -> tuple[Any, Any]:
    """With the class of its errors."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.decompressobj(31), zlib.error
    return isal_zlib.decompressobj(31), isal_zlib.error


def compress(source: int, target: int, size: int, most: int) -> Content:
    """Compress *source* from its beginning into *target*; returns what was read.

    Reads one byte beyond *size* at most, so that growth shows. Raises TooLarge beyond *most* bytes written.
    """
    stream, read, written = compressor(), 0, 0
    with _Digest() as digest:
        while chunk := os.pread(source, min(CHUNK, size + 1 - read), read):
            digest.update(chunk)
            read += len(chunk)
            written += _write(target, stream.compress(chunk))
            if written > most:
                raise TooLarge
        if written + _write(target, stream.flush()) > most:
            raise TooLarge
        return Content(read, digest.digest())


def decompress(source: int, target: int, most: int) -> Content:
    """Decompress *source* into *target*, with holes for zeros; returns what was written. Raises Damaged, TooLarge."""
    offset = 0
    with _Digest() as digest:
        for chunk in _plain(source):
            digest.update(chunk)
            if offset + len(chunk) > most:
                raise TooLarge
            if chunk.count(0) != len(chunk):
                _write(target, chunk, offset)
            offset += len(chunk)
        os.ftruncate(target, offset)
        return Content(offset, digest.digest())


def content_of_compressed(fd: int, most: int) -> Content:
    """What a gzip file decompresses to, read from the disk and checked by its own sum. Raises Damaged, TooLarge."""
    return _content(lambda: _plain(fd), fd, most)


def content(fd: int, most: int) -> Content:
    """What a file holds, read from the disk. Raises TooLarge."""
    return _content(lambda: _chunks(fd), fd, most)


def _content(chunks: Callable[[], Iterator[bytes]], fd: int, most: int) -> Content:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # what was synced is read back from the disk, not from memory
    size = 0
    with _Digest() as digest:
        for chunk in chunks():
            digest.update(chunk)
            size += len(chunk)
            if size > most:
                raise TooLarge
        return Content(size, digest.digest())


def ratio(fd: int, size: int) -> float:
    """Compressed over plain size, from three samples: beginning, middle, end."""
    piece = 128 * 1024
    read = written = 0
    for offset in sorted({0, max(0, size // 2 - piece // 2), max(0, size - piece)}):
        stream = compressor()
        sample = os.pread(fd, piece, offset)
        read += len(sample)
        written += len(stream.compress(sample)) + len(stream.flush())
    return written / read if read else 1.0


def is_compressed(fd: int) -> bool:
    return os.pread(fd, 8, 0).startswith(MAGIC)


def _chunks(fd: int) -> Iterator[bytes]:
    offset = 0
    while chunk := os.pread(fd, CHUNK, offset):
        offset += len(chunk)
        yield chunk


def _plain(fd: int) -> Iterator[bytes]:
    """The content of one gzip member, in pieces of bounded size; Damaged unless it is whole and alone."""
    stream, error = _decompressor()
    try:
        for chunk in _chunks(fd):
            if stream.eof:
                raise Damaged("something follows its end")
            rest = chunk
            while rest and not stream.eof:
                plain = stream.decompress(rest, CHUNK)
                rest = stream.unconsumed_tail
                if plain:
                    yield plain
        while not stream.eof and (plain := stream.decompress(b"", CHUNK)):
            yield plain
    except error as wrong:
        raise Damaged(str(wrong)) from wrong
    if not stream.eof:
        raise Damaged("it ends too early")
    if stream.unused_data:
        raise Damaged("something follows its end")


def _write(fd: int, data: bytes, offset: int | None = None) -> int:
    view, done = memoryview(data), 0
    while done < len(view):
        done += os.write(fd, view[done:]) if offset is None else os.pwrite(fd, view[done:], offset + done)
    return done
