"""What became of a post's picture, as events say it."""

from enum import StrEnum
from typing import Self


class ImageStatus(StrEnum):
    """`used`, `none`, or why the caption was tagged alone."""

    USED = "used"
    """The picture was looked at."""
    NONE = "none"
    """The post has no picture, or no caption to use one for, or the checkpoint looks at none."""
    NOT_FOUND = "not_found"
    """The host has no such picture (404), its name can't be resolved, or nothing may be fetched."""
    GONE = "gone"
    """It was there, and was taken away (410)."""
    FORBIDDEN = "forbidden"
    """The host won't give it to us (401, 403, 451)."""
    BLOCKED_ADDRESS = "blocked_address"
    """The URL, or a redirect, leads where a worker must not go: another scheme, port or private network."""
    TOO_LARGE = "too_large"
    """More bytes, pixels or memory than the limits allow."""
    TOO_SLOW = "too_slow"
    """The host didn't send it in time, or too little at a time."""
    BAD_IMAGE = "bad_image"
    """Truncated, damaged, no picture at all, or one that takes too long to decode."""
    UNSUPPORTED = "unsupported"
    """A picture in a format that isn't on the list."""
    HOST_DOWN = "host_down"
    """The host can't be reached, breaks off, fails (5xx), or is left alone since it did so, or asked for it."""
    LATE = "late"
    """It was still on its way when the post had to go on; posts that follow may have it."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        """A status of a later version: readers of its events take it as it is, and as none of the above."""
        if not isinstance(value, str):
            return None
        status = str.__new__(cls, value)
        status._name_, status._value_ = "OTHER", value
        return status
