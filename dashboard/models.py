"""All models of the app, re-exported: each lives in the package that owns it."""

from .alerts.models import Alert, AlertDelivery, AlertRule, AlertTarget
from .console.wizards.models import ConsoleDraft
from .impersonation.models import Impersonation
from .jobs.models import JobState
from .two_factor.models import OperatorDevice, RecoveryCode

__all__ = [
    "Alert",
    "AlertDelivery",
    "AlertRule",
    "AlertTarget",
    "ConsoleDraft",
    "Impersonation",
    "JobState",
    "OperatorDevice",
    "RecoveryCode",
]
