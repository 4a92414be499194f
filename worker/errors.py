"""Everything that can go wrong in the worker; the class says what happens next.

WorkerError
├── ImageError              degrade: the caption is tagged alone, and the event says why
├── TaggingFailed           dead-letter: this post breaks the model
├── TaggerBroken            stop: the model fails on every post
├── TaggerDied              retry: the tagger's process is started again
├── PublishAborted          retry: nothing was published, try again
├── PublishUnsettled        retry: nobody knows; read again from the last commit
├── SinkUnavailable         stop: events can't be published; nothing was committed
├── SettingsError           stop: a setting is wrong
└── CheckpointUnavailable   stop: no tagger
"""

from consumers.image_status import ImageStatus


class WorkerError(Exception):
    """The root of all errors of this package. Each message says what to do next.

    `retriable`: whether the same again may go well, a little later (worker/retry.py).
    """

    retriable = False


class ImageError(WorkerError):
    """Raised when a picture can't be had. The post goes on without it.

    `retriable` where the host broke off or couldn't be reached, or asks for it (502, 503, 504).
    """

    def __init__(self, status: ImageStatus, detail: str, *, retriable: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.retriable = retriable


class NothingLearnt(ImageError):
    """Raised where a picture can't be had, and that says nothing of it: trouble of our own, or a host left alone."""


class TaggingFailed(WorkerError):
    """Raised when one post breaks the model. It becomes a dead letter; the rest of its batch goes on."""

    def __init__(self, detail: str, *, num_tries: int = 1) -> None:
        super().__init__(detail)
        self.num_tries = num_tries


class TaggerBroken(WorkerError):
    """Raised when the model fails on a harmless post too. The worker stops."""


class TaggerDied(WorkerError):
    """Raised when the tagger's process ends, or can't be started. The batch is halved; a post that it dies of is bad.

    `retriable`: when it's next asked it's started again. `was_killed`: amid a request, mostly for want of memory.
    """

    retriable = True

    def __init__(self, detail: str, *, was_killed: bool = False) -> None:
        super().__init__(detail)
        self.was_killed = was_killed


class PublishAborted(WorkerError):
    """Raised when nothing of a publication became visible. It is tried again."""

    retriable = True


class PublishUnsettled(WorkerError):
    """Raised when a publication may or may not have become visible. The offsets tell, when read again."""


class SinkUnavailable(WorkerError):
    """Raised when events can't be published. The worker stops; the posts are read again."""


class SettingsError(WorkerError):
    """Raised when a setting is wrong. The worker doesn't start."""


class CheckpointUnavailable(WorkerError):
    """Raised when there is no tagger to work with. The worker doesn't start."""
