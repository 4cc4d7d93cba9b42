"""The coders that a .kolmo file can be written by; the file says which."""

from enum import Enum

from ..errors import CodecError, KolmogramError
from .plain import AnsStream, Bzip2Stream, ZstdStream
from .stream import MixingStream, Stream


class Coder(Enum):
    """Name, number in the file, and stream of each coder."""

    MIXING = "mixing", 0, MixingStream
    ANS = "ans", 1, AnsStream
    ZSTD = "zstd", 2, ZstdStream
    BZIP2 = "bzip2", 3, Bzip2Stream

    def __init__(self, label: str, number: int, stream: type[Stream]) -> None:
        self.label, self.number, self.stream = label, number, stream

    @classmethod
    def named(cls, label: str) -> "Coder":
        """The coder of that name; KolmogramError if there is none."""
        for coder in cls:
            if coder.label == label:
                return coder
        raise KolmogramError(f"unknown coder {label!r}: use {', '.join(coder.label for coder in cls)}")

    @classmethod
    def numbered(cls, number: int) -> "Coder":
        """The coder of that number; CodecError if there is none."""
        for coder in cls:
            if coder.number == number:
                return coder
        raise CodecError(f"a .kolmo file by coder {number}, which this version does not know: update kolmogram")
