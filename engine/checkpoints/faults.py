"""What is wrong with a file, in one line: the file, the fault, the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError


def broken(path: str | Path, what: str, remedy: str = "") -> CheckpointError:
    """The error for a bad file, always one line: the file, what is wrong with it, what to do."""
    line = f"{path}: {what}; {remedy}" if remedy else f"{path}: {what}"
    return CheckpointError(" ".join(line.splitlines()))


class NoWeightsError(CheckpointError):
    """A sound file of a known format that holds something else: a data set, arguments, an optimiser."""


def no_weights(path: Path, what: str) -> NoWeightsError:
    """The error for such a file."""
    return NoWeightsError(str(broken(path, what, "it is no checkpoint of a model")))


@contextmanager
def guarded(path: Path, doing: str) -> Iterator[None]:
    """Turn whatever a foreign file provokes in a parser into one CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        what = f"{doing} failed ({error.strerror or error})"
        raise broken(path, what, "check that it exists and is readable") from error
    except Exception as error:  # what a parser raises is up to the bytes of the file, not to us
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise broken(path, f"{doing} failed ({reason})", "the file is damaged or not what its name says") from error
