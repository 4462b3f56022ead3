"""All models of the app, re-exported: each lives in the package that owns it."""

from .alerts.models import Alert, AlertDelivery, AlertRule, AlertTarget
from .jobs.models import JobState

__all__ = ["Alert", "AlertDelivery", "AlertRule", "AlertTarget", "JobState"]
