"""Whether a run's checkpoints are what they say they are."""

from .audit import Audit, audit
from .findings import Finding

__all__ = ["Audit", "Finding", "audit"]
