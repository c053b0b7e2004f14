"""The closed lists of words that data, files and answers use, free of pyarrow for use on small devices."""

from enum import StrEnum


class Split(StrEnum):
    """What an image is for: models are fitted on ``train`` alone and measured on ``test``."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Fit(StrEnum):
    """How a picture that is not square becomes the square that the network sees."""

    STRETCH = "stretch"
    """All of it, its proportions lost."""
    CROP = "crop"
    """The square in its middle."""
    PAD = "pad"
    """All of it, in the middle of a grey square."""


class Answer(StrEnum):
    """What a model says of an image."""

    SURE = "sure"
    """It is of the likeliest label."""
    NOT_SURE = "not_sure"
    """It is of one of the labels; which one is not sure."""
    UNKNOWN = "unknown"
    """It is unlike anything that was learned."""


class Reason(StrEnum):
    """Why an image was rejected: the closed list of ``rejected.reason``."""

    EMPTY = "empty"
    """The file has no bytes."""
    UNREADABLE = "unreadable"
    """The file could not be opened or read: missing, no permission, a broken disk."""
    UNSUPPORTED_FORMAT = "unsupported_format"
    """The content is none of JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, HEIC, whatever the name says, or a variant that
    is not decoded; ``detail`` is what it looks like, a colon, and what to do."""
    TRUNCATED = "truncated"
    """The content ends before the image does."""
    CORRUPT = "corrupt"
    """The content is of a supported format but cannot be decoded, or ends the process that decodes it."""
    TOO_LARGE = "too_large"
    """More bytes than ``max_bytes``."""
    TOO_MANY_PIXELS = "too_many_pixels"
    """More pixels than ``max_pixels``, or than fit into ``max_decode_memory``: a decompression bomb, or a picture to
    shrink first."""
    TOO_SLOW = "too_slow"
    """Decoding takes more CPU time than ``max_decode_seconds``, or would, by the structure of the file."""
