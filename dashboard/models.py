"""All models of the app, re-exported: each lives in the package that owns it."""

from .jobs.models import JobState

__all__ = ["JobState"]
