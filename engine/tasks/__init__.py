"""What makes a loss out of weights."""

from .loading import load_task
from .task import Task

__all__ = ["Task", "load_task"]
