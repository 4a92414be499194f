"""The errors the model raises on purpose.

ModelError
├── DataError        a data set, label file or image folder can't be used
├── PictureError     a picture can't be read, and counts as missing
│   ├── PictureTooLarge      more pixels, or more memory to decode, than the limits allow
│   └── PictureUnsupported   a picture, but in a format that isn't on the list
├── CheckpointError  a checkpoint can't be read, or doesn't fit the model
│   └── TowerMissing         its tower's weights aren't here, or not whole
├── DeviceError      a device can't do what is asked of it
│   └── OutOfMemory          for so much at once it has no memory
├── OutputError      a file can't be written
├── TrainingError    a training can't go on
└── TaggingError     one post can't be tagged
"""


class ModelError(Exception):
    """Every error the model raises on purpose is one of these."""


class DataError(ModelError):
    """A data set, a label file or an image folder can't be used."""


class PictureError(ModelError):
    """A picture is damaged, too large, or none at all."""


class PictureTooLarge(PictureError):
    """A picture has more pixels, or takes more memory, than the limits allow."""


class PictureUnsupported(PictureError):
    """A picture is in a format that isn't on the list."""


class CheckpointError(ModelError):
    """A checkpoint can't be read, or it doesn't fit the model asked for."""


class TowerMissing(CheckpointError):
    """The weights of a checkpoint's tower aren't here, or not whole; once they are beside it, it can be used."""


class DeviceError(ModelError):
    """A device can't do what is asked of it."""


class OutOfMemory(DeviceError):
    """A device, or the host, has no memory for so much at once; less may fit, or the same a little later."""


class OutputError(ModelError):
    """A file can't be written; what stood there before is whole."""


class TrainingError(ModelError):
    """A training can't go on."""


class TaggingError(ModelError):
    """One post can't be tagged."""
