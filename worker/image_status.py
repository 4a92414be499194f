"""The status of a picture, by the name that the rest of the worker knows it by; it belongs to the messages."""

from consumers.image_status import ImageStatus

__all__ = ["ImageStatus"]
