"""Decompression with an end: how large a message may become is known before it is inflated.

kombu inflates a compressed message before anybody has seen it. 400 kB of zeros become more than a
gigabyte, in the worker's main process. Each method is therefore first run to its limit only.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable
from typing import Any

#: bytes handed out at a time, so that a message is measured and not held
_PIECE = 1 << 16
#: bytes that xz may ask for as its dictionary
_XZ_MEMORY = 1 << 26


class InflationError(ValueError):
    """A compressed message that is too large when inflated, damaged, or of an unknown method."""


def _zstd() -> Any:
    """The module that kombu would use; None if there is none."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _by_object(make: Callable[[], Any]) -> Callable[[bytes, int], int]:
    """Measure with a decompressor object of bz2's kind."""

    def measure(body: bytes, most: int) -> int:
        inflater, size = make(), 0
        while size <= most:
            piece = inflater.decompress(body, _PIECE)
            size, body = size + len(piece), b""
            if inflater.eof:
                body = inflater.unused_data  # another stream may follow, and is inflated, too
                if not body:
                    return size
                inflater = make()
            elif not piece and inflater.needs_input:
                raise InflationError("the compressed body is cut")
        return size

    return measure


def _zlib(body: bytes, most: int) -> int:
    inflater, size = zlib.decompressobj(), 0
    while not inflater.eof and size <= most:
        piece = inflater.decompress(body, _PIECE)
        if not piece and not inflater.eof and not inflater.unconsumed_tail:
            raise InflationError("the compressed body is cut")
        size, body = size + len(piece), inflater.unconsumed_tail
    return size


_METHODS: dict[str, Callable[[bytes, int], int]] = {
    "application/x-gzip": _zlib,
    "application/x-bz2": _by_object(bz2.BZ2Decompressor),
    "application/x-lzma": _by_object(lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY)),
    "application/zstd": _by_object(lambda: _zstd().ZstdDecompressor()),
}
_ALIASES = {
    "gzip": "application/x-gzip",
    "zlib": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "bzip": "application/x-bz2",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
    "zstd": "application/zstd",
    "zstandard": "application/zstd",
}


def check_inflation(body: object, method: object, most: int) -> None:
    """Return if a body can be inflated to at most so many bytes. Raises InflationError."""
    if not isinstance(method, str) or not isinstance(body, bytes | str):
        raise InflationError("`compression` has to name the method, and the body to be bytes")
    measure = _METHODS.get(_ALIASES.get(method, method))
    if measure is None:
        known = "gzip, bzip2, lzma and zstd"
        raise InflationError(
            f"compression {method[:80]!r} has no bound here; send {known}, or none"
        )
    try:
        size = measure(body.encode() if isinstance(body, str) else body, most)
    except InflationError:
        raise
    except Exception as exc:  # each method has errors of its own for damaged data
        raise InflationError(f"the body is not {method[:80]}: {exc}") from exc
    if size > most:
        raise InflationError(f"the body has more than {most} bytes when inflated")
