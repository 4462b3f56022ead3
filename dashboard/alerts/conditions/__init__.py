"""Every kind of rule. Conditions are pulled: they read what other packages show, and nothing below knows of alerts."""

from collections.abc import Mapping

from ..models import AlertRule
from . import money, providers, running
from .base import Condition, Finding, Thresholds

_Kind = AlertRule.Kind

CONDITIONS: Mapping[str, Condition] = {
    _Kind.BUDGET: Condition(
        money.budgets, {"warning_percent": 75, "critical_percent": 90, "exhausted_percent": 100}, seldom=True
    ),
    _Kind.ABUSE: Condition(money.abusive_users, {"more_than": 10}),
    _Kind.PROVIDER_DOWN: Condition(providers.providers_down, {"checks": 2}),
    _Kind.BREAKER_OPEN: Condition(providers.breakers_open, {"minutes": 2}),
    _Kind.PAYMENTS: Condition(
        money.payments, {"review": 1, "unapplied": 1, "mismatches": 1, "unfinished_days": 3, "dispute_hours": 72}
    ),
    _Kind.GATEWAY_WEBHOOKS: Condition(money.gateway_webhooks, {"attempts": 3, "minutes": 15, "rejected_an_hour": 20}),
    _Kind.CUSTOMER_WEBHOOKS: Condition(
        running.customer_webhooks, {"endpoints": 3, "failing_hours": 1, "overdue": 100, "overdue_minutes": 15}
    ),
    _Kind.BOOKS: Condition(money.books, {"hours": 36}),
    _Kind.QUEUES: Condition(running.queues, {"tasks": 1000, "bookings": 1000}),
    _Kind.PLAN_MARGIN: Condition(money.plan_margins, {}, seldom=True),
    _Kind.LOSSES: Condition(money.losses, {"usd_a_day": 1}),
    _Kind.SCHEDULED_WORK: Condition(running.scheduled_work, {"seconds": 120}, watched=True),
    _Kind.JOBS: Condition(running.jobs, {"failing_minutes": 15, "late_minutes": 30}),
    _Kind.LEFT_UNDONE: Condition(running.left_undone, {"minutes": 60, "refund_days": 3}),
    _Kind.CREDENTIALS: Condition(providers.credentials, {}),
    _Kind.CERTIFICATE: Condition(providers.certificate, {"days": 14}, seldom=True),
}

__all__ = ["CONDITIONS", "Condition", "Finding", "Thresholds"]
