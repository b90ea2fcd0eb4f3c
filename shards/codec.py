"""Pixels to bytes and back: JPEG by libjpeg-turbo, PNG by Pillow.

Both directions release the interpreter's lock while they work, so threads help, except on images so small (32 px, about
15 µs) that taking the lock costs as much as the work.

    data = encode_image(pixels, {"size": 32, "format": "jpg", "quality": 95, "subsampling": "444"})
    pixels = decode_image(data)
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import simplejpeg

from shards.canonical import JSON
from shards.errors import DamageError

OFF_THE_GRID = 8
"""Bytes past a multiple of 32 at which pixels had better begin that JPEGs are decoded into.

libjpeg-turbo writes rows that lie at multiples of its vectors (16 or 32 bytes) past the caches, straight to memory, and
waits for it: an image of 32 px takes a fifth longer. All rows of an image lie alike where 32 divides its size.
"""

_JPEG_START = b"\xff\xd8"
_PNG_START = b"\x89PNG"


def default_subsampling(size: int) -> str:
    """Chroma subsampling that suits the size: a small image loses visible detail at anything but 444."""
    return "444" if size < 128 else "420"


def encode_image(pixels: np.ndarray, image: Mapping[str, JSON]) -> bytes:
    """The file of an image, for a recipe's `image`.

    Args:
        pixels: uint8 [height, width, 3], C-contiguous.
    """
    if image["format"] == "jpg":
        return simplejpeg.encode_jpeg(pixels, image["quality"], "RGB", image["subsampling"])
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def decode_image(data: bytes | memoryview, *, what: str = "an image") -> np.ndarray:
    """The pixels of a JPEG or PNG file, uint8 [height, width, 3].

    Raises:
        DamageError: the file does not decode; the message begins with `what`.
    """
    try:
        if bytes(data[:2]) == _JPEG_START:
            return simplejpeg.decode_jpeg(data, "RGB")
        return _decode_png(data)
    except ValueError as error:
        raise DamageError(f"{what} does not decode ({error})") from error


def empty_pixels(shape: Sequence[int]) -> np.ndarray:
    """An array, uint8 of this shape and C-contiguous, that JPEGs are decoded into fast; see OFF_THE_GRID."""
    size = math.prod(shape)
    memory = np.empty(size + 32, np.uint8)
    first = (OFF_THE_GRID - memory.ctypes.data) % 32
    return memory[first : first + size].reshape(shape)


def decode_into(data: bytes | memoryview, image_format: str, out: np.ndarray) -> None:
    """Decodes a file of format jpg or png into `out`, uint8 [height, width, 3] C-contiguous; a jpg without a copy.

    Raises:
        ValueError: the file does not decode, or the image is of another size.
    """
    decode_all_into([data], image_format, out[None])


def decode_all_into(files: Sequence[bytes | memoryview], image_format: str, out: np.ndarray) -> None:
    """Decodes files into `out`, uint8 [len(files), height, width, 3]; a jpg of 32 px takes some 15 µs and 1 µs more.

    Raises:
        ValueError: a file does not decode, or its image is of another size; those before it are decoded.
    """
    shape = out.shape[1:]
    if image_format != "jpg":
        for data, place in zip(files, out, strict=True):
            place[...] = _decode_png(data, shape)
        return
    decode = simplejpeg.decode_jpeg
    for data, place in zip(files, out, strict=True):
        try:
            if decode(data, "RGB", False, False, 0, 0, 1.0, place).shape == shape:
                continue
        except ValueError:  # perhaps only too large for its place
            _check_shape((*simplejpeg.decode_jpeg_header(data)[:2], 3), shape)
            raise
        _check_shape((*simplejpeg.decode_jpeg_header(data)[:2], 3), shape)


def _check_shape(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(f"it has {shape[1]}x{shape[0]} pixels, not {expected[1]}x{expected[0]}")


def _decode_png(data: bytes | memoryview, expected: tuple[int, ...] | None = None) -> np.ndarray:
    """Pixels of a PNG file; where their shape is known, another one is refused before any pixel is decoded."""
    from PIL import Image

    if bytes(data[:4]) != _PNG_START:
        raise ValueError("neither JPEG nor PNG")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if expected is not None:
                _check_shape((image.height, image.width, 3), expected)
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:  # what Pillow raises for damage
        raise ValueError(str(error)) from error
