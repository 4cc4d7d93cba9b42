"""Which device is meant, and whether it can be used."""

import torch

from .errors import BackendError


def usable(name: str) -> str:
    """The device of that name ("auto": a GPU if there is one); BackendError, one line, if torch cannot use it here."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BackendError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return name
