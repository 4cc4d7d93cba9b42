"""Where a run lies: a path of this machine, or a URL that fsspec knows (s3://, gs://, hf://, https://, …)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from glob import has_magic
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast
from urllib.parse import quote

from ..errors import CheckpointError
from .faults import broken
from .names import natural

_URL = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://")


def is_url(text: str | Path) -> bool:
    """Whether the user wrote a URL of something that is not on this machine."""
    return _URL.match(str(text)) is not None


def location(given: str | Path) -> Path:
    """The path that the user wrote; a URL becomes a path with the same methods that reads over the network.

    CheckpointError, one line, if what reads URLs of that kind is not installed.
    """
    if not is_url(given):
        return Path(str(given).removeprefix("file://")).expanduser()
    try:
        from upath import UPath

        path = UPath(re.sub(r"(?<![:/])/+$", "", str(given)))
        path.fs  # noqa: B018  (made here, so that what it needs is known to be there)
    except ModuleNotFoundError as error:
        raise broken(given, f"a URL needs {error.name}", "pip install 'kolmogram[hub]'") from None
    except (ImportError, ValueError) as error:
        raise broken(given, str(error), "pip install what fsspec needs for it") from None
    if isinstance(path, Path):  # what is not known is taken for a name
        raise broken(given, "no file system of that kind is known", "pip install what fsspec needs for it")
    return cast(Path, path)


def is_remote(path: object) -> bool:
    """Whether a `location` is behind a URL."""
    return not isinstance(path, Path)


@contextmanager
def reached(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong on the way to a URL into one CheckpointError; for other paths nothing changes."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # each client library has its own
        if not is_remote(path):
            raise
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise broken(path, f"could not be reached ({reason})", "try again: what is finished is kept") from error


def forget_listings(path: Path) -> None:
    """Make the next look at a URL a new one: file systems keep what they have listed."""
    if is_remote(path):
        path.fs.invalidate_cache()  # pyright: ignore[reportAttributeAccessIssue]


def revisions(pattern: str) -> list[str]:
    """`hf://ORG/MODEL@step*`: a URL for each branch and tag that matches; any other pattern is left as it is."""
    repository, _, rest = pattern.partition("@")
    revision, slash, inside = rest.partition("/")
    if not pattern.startswith("hf://") or not has_magic(revision):
        return [pattern]
    from huggingface_hub import HfApi

    refs = HfApi().list_repo_refs(repository.removeprefix("hf://"))
    names = sorted({ref.name for ref in (*refs.branches, *refs.tags) if fnmatch(ref.name, revision)}, key=natural)
    return [f"{repository}@{quote(name, safe='')}{slash}{inside}" for name in names]


@contextmanager
def local(folder: Path, *patterns: str) -> Iterator[Path]:
    """The folder, or, if it is behind a URL, a temporary one with those of its files that match a pattern."""
    if not is_remote(folder):
        yield folder
        return
    with TemporaryDirectory(prefix="kolmogram-") as copy:
        with reached(folder):
            for path in folder.iterdir():
                if any(fnmatch(path.name, pattern) for pattern in patterns):
                    (Path(copy) / path.name).write_bytes(path.read_bytes())
        yield Path(copy)
