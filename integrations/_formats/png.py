"""Pixels as a PNG file, so that images need no further package."""

from __future__ import annotations

import struct
import zlib

COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
"""PNG's number for grey, for red, green and blue, and for those with opacity, by how many bytes a pixel has."""


def as_png(pixels: bytes, height: int, width: int, colours: int) -> bytes:
    """Return pixels, row by row with ``colours`` bytes each, as a PNG file.

    Source:
        Portable Network Graphics specification (third edition), W3C, https://www.w3.org/TR/png-3/
    """
    stride = width * colours
    rows = b"".join(b"\0" + pixels[row * stride : (row + 1) * stride] for row in range(height))  # 0: not filtered
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[colours], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
