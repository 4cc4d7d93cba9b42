"""What makes a loss out of weights."""

from .loading import load_task
from .task import Task, as_parameter, as_task

__all__ = ["Task", "as_parameter", "as_task", "load_task"]
