r"""Features as they are kept in the cache: without their zeros, which nine in ten are behind a ReLU.

    \0 values                 all of them, where leaving out the zeros would save little
    \2 which values           which aren't zero, a bit each, highest bit first; then these

Values are fp16, little-endian, row by row. Deflated (\1, as earlier releases kept them) they are a fifth larger, take
seven times as long to pack and twice as long to unpack, on asyncio's loop.
"""

import numpy as np

PLAIN, SPARSE = b"\0", b"\2"
WORTHWHILE = 0.8
"""Zeros are left out where that takes the features to this share or less."""

_EXPONENT = 0x7C00
"""The bits of an fp16 that are all set in infinities and in what is no number."""


def pack(features: np.ndarray) -> bytes:
    """`features` in fp16, packed."""
    values = np.ascontiguousarray(features, dtype="<f2").reshape(-1).view("<u2")
    is_there = values != 0
    packed = np.packbits(is_there).tobytes() + values[is_there].tobytes()
    return SPARSE + packed if len(packed) <= WORTHWHILE * values.nbytes else PLAIN + values.tobytes()


def unpack(packed: bytes, shape: tuple[int, int]) -> np.ndarray | None:
    """What was packed; None where it isn't of `shape`, or not all of it is a finite number."""
    num_values = shape[0] * shape[1]
    kind, body = packed[:1], packed[1:]
    if kind == PLAIN and len(body) == 2 * num_values:
        values = there = np.frombuffer(body, "<u2").copy()
    elif kind == SPARSE and (found := _without_zeros(body, num_values)) is not None:
        values, there = found
    else:
        return None
    if len(there) and int((there & _EXPONENT).max()) == _EXPONENT:
        return None
    return values.view("<f2").reshape(shape)


def _without_zeros(body: bytes, num_values: int) -> tuple[np.ndarray, np.ndarray] | None:
    """All values, and those that aren't zero."""
    num_bytes = (num_values + 7) // 8
    if len(body) < num_bytes or len(body) % 2 != num_bytes % 2:
        return None
    is_there = np.unpackbits(np.frombuffer(body, np.uint8, num_bytes), count=num_values).view(bool)
    there = np.frombuffer(body, "<u2", offset=num_bytes)
    # By their places: NumPy takes three times as long where it is given the mask.
    places = np.flatnonzero(is_there)
    if len(there) != len(places):
        return None
    values = np.zeros(num_values, "<u2")
    values[places] = there
    return values, there
