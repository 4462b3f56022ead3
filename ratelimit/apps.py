from django.apps import AppConfig


class RatelimitConfig(AppConfig):
    """Speed limits, quotas, concurrency gauges and budgets, kept in Redis."""

    name = "ratelimit"
    verbose_name = "Rate limits"
