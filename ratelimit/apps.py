from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class RatelimitConfig(AppConfig):
    """Speed limits, quotas, concurrency gauges and budgets, kept in Redis."""

    name = "ratelimit"
    verbose_name = _("Rate limits")
