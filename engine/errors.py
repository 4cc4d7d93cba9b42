"""Every error that a user can cause: one clear line that names the file or tensor, what is wrong and what to do."""


class KolmogramError(Exception):
    """Base of all errors that the command line shows as one line, with exit code 1."""


class CheckpointError(KolmogramError):
    """A checkpoint is truncated, lying, hostile, unknown or empty."""


class TaskError(KolmogramError):
    """A task cannot be loaded, or its loss does not fit the checkpoint."""


class CodecError(KolmogramError):
    """A .kolmo file is corrupt, too new, or not one of ours."""


class BackendError(KolmogramError):
    """A kernel backend was asked for that cannot run here."""
