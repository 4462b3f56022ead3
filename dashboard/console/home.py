"""The console's home: which figures an operator may see, put together from selectors, each with the way to its rows."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.db.models import Q
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django_celery_beat.models import PeriodicTask

from billing.accounts.models import Account
from billing.invoices.models import SellerProfile
from billing.ledger.models import UsageRecord
from billing.payments.models import Dispute, Payment, Refund
from billing.payments.reconciliation.models import ReconciliationRow
from billing.plans.models import Plan
from billing.webhooks.models import WebhookEndpoint
from dashboard.alerts.selectors import open_alerts
from dashboard.figures import MOST_DAYS, OperatorFigures, operator_figures, plan_mix
from dashboard.jobs.models import JobState
from iafactory.common.admin import list_url
from ratelimit.models import AbuseSignal
from routing.budgets import budget_states
from routing.models import ProviderCredential

from .selectors import books_state, home_events, open_holds, recent_losses

DAY = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
PRESETS = (7, 30, 90)
DEFAULT_DAYS = 30
# Plans beyond these are one slice of the donut.
PLANS_SHOWN = 6
ALERTS_SHOWN = 6


class RangeForm(forms.Form):
    """Which UTC days the home tells of, both included."""

    since = forms.DateField(label=_("From"), required=False, widget=DAY)
    until = forms.DateField(label=_("To"), required=False, widget=DAY)

    def __init__(self, data: Any, *, today: date) -> None:
        first = today - timedelta(days=DEFAULT_DAYS - 1)
        super().__init__({"since": data.get("since") or first, "until": data.get("until") or today})

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        since, until = wanted.get("since"), wanted.get("until")
        if since and until and since > until:
            raise forms.ValidationError(_("The first day must not lie after the last."))
        if since and until and until - since >= timedelta(days=MOST_DAYS):
            raise forms.ValidationError(_("At most %s days at once.") % MOST_DAYS)
        return wanted


@dataclass(frozen=True, slots=True)
class Waiting:
    """Rows that wait for an operator, and where they are."""

    label: Any
    count: int
    url: str
    urgent: bool = True


def home_context(request: HttpRequest, *, now: datetime) -> dict[str, Any]:
    """What the template shows, by the operator's rights. A fixed number of queries, however many rows there are."""
    may: Callable[[str], bool] = request.user.has_perm
    today = now.astimezone(UTC).date()
    form = RangeForm(request.GET, today=today)
    wanted = form.cleaned_data if form.is_valid() else RangeForm({}, today=today).data
    since, until = wanted["since"], wanted["until"]
    context: dict[str, Any] = {
        "range_form": form,
        "since": since,
        "until": until,
        "until_exclusive": until + timedelta(days=1),
        "today": today,
        "presets": [
            {"days": days, "since": today - timedelta(days=days - 1), "chosen": _is_preset(days, since, until, today)}
            for days in PRESETS
        ],
        "now": now,
        "alerts": list(open_alerts()[:ALERTS_SHOWN]) if may("dashboard.view_alert") else [],
        "waiting": _waiting(may),
        "events": home_events() if may("billing.view_event") else [],
        "show_events": may("billing.view_event"),
        "books": books_state() if may("billing.view_booksverification") else None,
        "may_see_losses": may("billing.view_ledgerentry"),
    }
    if may("routing.view_budget"):
        context["budget"] = budget_states(now=now, providers=[None])[0]
    if may("billing.view_subscription"):
        context["plans"] = plan_mix()
    if may("billing.view_usagerecord"):
        figures = operator_figures(since=since, until=until, now=now)
        show_money = may("billing.view_invoice") and may("billing.view_ledgerentry")
        context |= {
            "figures": figures,
            "show_money": show_money,
            "spans": _spans(figures, today),
            "losses": recent_losses(now=now),
            "holds": open_holds(now=now),
            "first_steps": _first_steps(may) if not figures.usage.calls and not UsageRecord.objects.exists() else [],
        }
    context["charts"] = _charts(context)
    return context


def _is_preset(days: int, since: date, until: date, today: date) -> bool:
    return until == today and since == today - timedelta(days=days - 1)


def _spans(figures: OperatorFigures, today: date) -> list[dict[str, Any]]:
    """The lines of the table of economics: a name, its first and last day, its figures."""
    spans = [
        (_("Today"), today, today, figures.today, figures.active_today),
        (_("7 days"), today - timedelta(days=6), today, figures.week, figures.active_week),
        (_("30 days"), today - timedelta(days=29), today, figures.month, figures.active_month),
    ]
    if not any(since == figures.since and until == figures.until for _name, since, until, _money, _active in spans):
        spans.append((_("Chosen days"), figures.since, figures.until, figures.economics, figures.active))
    return [
        {"name": name, "since": since, "until_exclusive": until + timedelta(days=1), "money": money, "active": active}
        for name, since, until, money, active in spans
    ]


def _waiting(may: Callable[[str], bool]) -> list[Waiting]:
    """What an operator should look at; nothing that has no row."""
    found: list[Waiting] = []

    def add(permission: str, label: Any, rows: Any, model: str, *, urgent: bool = True, **lookups: Any) -> None:
        if may(permission) and (count := rows().count()):
            found.append(Waiting(label, count, list_url(model, **lookups), urgent))

    add(
        "billing.view_payment",
        _("Payments to review"),
        lambda: Payment.objects.filter(state=Payment.State.REVIEW),
        "billing.payment",
        state__exact=Payment.State.REVIEW,
    )
    add(
        "billing.view_payment",
        _("Payments by hand with a proof"),
        lambda: Payment.objects.filter(gateway="manual", state=Payment.State.PENDING, proofs__isnull=False).distinct(),
        "billing.payment",
        urgent=False,
        waiting="1",
    )
    add(
        "billing.view_payment",
        _("Money without an invoice"),
        lambda: Payment.objects.filter(unapplied_amount__gt=0),
        "billing.payment",
        unapplied="1",
    )
    add(
        "billing.view_refund",
        _("Refunds to approve or send"),
        lambda: Refund.objects.filter(Q(state=Refund.State.REQUESTED)),
        "billing.refund",
        urgent=False,
        state__exact=Refund.State.REQUESTED,
    )
    add(
        "billing.view_dispute",
        _("Open disputes"),
        lambda: Dispute.objects.filter(state=Dispute.State.OPEN),
        "billing.dispute",
        state__exact=Dispute.State.OPEN,
    )
    add(
        "billing.view_reconciliationrow",
        _("Differences with gateways"),
        lambda: ReconciliationRow.objects.filter(state=ReconciliationRow.State.OPEN),
        "billing.reconciliationrow",
        state__exact=ReconciliationRow.State.OPEN,
    )
    add(
        "ratelimit.view_abusesignal",
        _("Abuse signals"),
        lambda: AbuseSignal.objects.filter(state=AbuseSignal.State.OPEN),
        "ratelimit.abusesignal",
        state__exact=AbuseSignal.State.OPEN,
    )
    add(
        "billing.view_webhookendpoint",
        _("Customers' webhooks that fail"),
        lambda: WebhookEndpoint.objects.filter(failing_since__isnull=False, is_enabled=True),
        "billing.webhookendpoint",
        urgent=False,
        failing_since__isnull="False",
    )
    add(
        "django_celery_beat.view_periodictask",
        _("Failed jobs"),
        lambda: PeriodicTask.objects.filter(
            enabled=True, task__in=JobState.objects.filter(state=JobState.Phase.FAILED).values("task")
        ),
        "django_celery_beat.periodictask",
        last="failed",
    )
    return found


def _first_steps(may: Callable[[str], bool]) -> list[dict[str, Any]]:
    """What a new installation still needs before it earns money; each step with whether it is done."""
    steps = (
        (
            "routing.view_providercredential",
            _("Give a provider its key"),
            "routing.providercredential",
            ProviderCredential.objects,
        ),
        (
            "billing.view_sellerprofile",
            _("Say who sells: name, address, identifiers"),
            "billing.sellerprofile",
            SellerProfile.objects,
        ),
        ("billing.view_plan", _("Look over the plans and their prices"), "billing.plan", Plan.objects),
        ("billing.view_account", _("Welcome the first customer"), "billing.account", Account.objects),
    )
    return [
        {"label": label, "url": list_url(model), "done": rows.exists()} for right, label, model, rows in steps if may(right)
    ]


def _charts(context: dict[str, Any]) -> dict[str, Any]:
    """What the page's script draws. Amounts are rounded to what a pixel can show; the tables beside have every digit."""
    charts: dict[str, Any] = {}
    figures: OperatorFigures | None = context.get("figures")
    if figures is not None and (figures.usage.calls or figures.economics.revenue_usd):
        days = figures.days
        charts["days"] = {
            "labels": [day.day.isoformat() for day in days],
            "cost": [_pixels(day.usage.cost_usd) for day in days],
            "revenue": [_pixels(day.revenue_usd) for day in days] if context["show_money"] else None,
            "served": [day.usage.calls - day.usage.calls_failed for day in days],
            "failed": [day.usage.calls_failed for day in days],
            "names": {name: str(text) for name, text in _DAY_NAMES.items()},
        }
    if figures is not None and figures.providers:
        charts["providers"] = {
            "labels": [slug for slug, _sums in figures.providers],
            "requests": [sums.calls for _slug, sums in figures.providers],
            "latency": [sums.latency_ms for _slug, sums in figures.providers],
            "names": {"requests": str(_("Requests")), "latency": str(_("Latency, ms"))},
        }
    if context.get("plans"):
        plans, others = context["plans"][:PLANS_SHOWN], context["plans"][PLANS_SHOWN:]
        rest = sum(plan.subscriptions for plan in others)
        charts["plans"] = {
            "labels": [plan.name for plan in plans] + ([str(_("Others"))] if rest else []),
            "subscriptions": [plan.subscriptions for plan in plans] + ([rest] if rest else []),
        }
    return charts


_DAY_NAMES = {"cost": _("Provider cost"), "revenue": _("Revenue"), "served": _("Served"), "failed": _("Failed")}


def _pixels(amount: Decimal) -> str:
    """As text: JSON has no decimals, and Chart.js reads numbers from text."""
    return f"{amount:.4f}"
