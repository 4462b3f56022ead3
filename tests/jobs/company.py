"""A small company for which most scheduled jobs have something to do, and what is left of it, to be compared.

Compared are how many rows each table has, the sum of every amount, and how many rows are in each state: the rows' ids and
instants differ between two runs of anything.
"""

from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.apps import apps
from django.core.cache import cache
from django.core.management import call_command
from django.db import models
from django.db.models import Sum

from billing.accounts.preferences import account_change
from billing.accounts.services import account_block, api_key_create, session_begin
from billing.events.services import SYSTEM
from billing.ledger.foundations import usage_partitions_ensure
from billing.ledger.models import LedgerEntry
from billing.ledger.services import due_wallets_roll, hold_open
from billing.payments.defaults import selling_write
from billing.plans.catalog import catalog_writing
from billing.plans.models import Plan
from billing.subscriptions.services import subscription_start
from billing.webhooks.services import endpoint_create
from dashboard.alerts.rules import rules_write
from tests.billing.ledger.calls import hold_item_for
from tests.billing.subscriptions.selling import attempt, begin, plan_make, spend, subscribe
from tests.factories import account_make, lot_make

# How each job went is told by run; a verification and a check of a route are looks, of which two leave two rows.
RUN_BY_RUN = {"dashboard.JobState", "billing.JobRun", "billing.BooksVerification", "routing.HealthCheck"}
# Not ours, or refilled with the catalogue.
ELSEWHERE = {"contenttypes", "auth", "django_celery_beat", "sessions", "admin"}
# What credits and money stand in.
MONEY = {f"billing.{name}" for name in ("Invoice", "Subscription", "Lot", "Wallet", "Payment", "DaySeal", "Hold", "Account")}

Fingerprint = dict[str, Any]


def company_make(start: datetime) -> None:
    """Something for most jobs to do: in the next three days, or long since."""
    with catalog_writing() as writer:
        selling_write(writer)
        rules_write(writer)
    usage_partitions_ensure(now=start, months_ahead=2)
    free = plan_make("free", None, family="free", interval="none", daily_limit=3)
    pro = plan_make("pro", "2590", period_credits=Decimal(500), billing_mode="credits")
    short = plan_make("short", "300", interval="day", interval_count=4, family="short")
    # Whose plan renews within the gap, is paid, and was used.
    renewing = account_make()
    subscribe(renewing, short)
    spender = account_make()
    spend(spender_with(spender, pro), "7")
    # Whose credits end, begin, run low; whose call died; whose block, time zone and key have their day.
    ending = account_make(credits=10)
    lot_make(ending.pk, 5, expires_at=start + timedelta(days=1))
    lot_make(ending.pk, 8, effective_at=start + timedelta(days=2))
    assert hold_open(hold_item_for(ending.pk, "3", seconds=600)).verdict == "held"
    blocked = account_make()
    account_block(account=blocked, reason="for a day", actor=SYSTEM, until=start + timedelta(days=1))
    moving = account_make()
    subscription_start(account=moving, plan=Plan.objects.get(code="free"), actor=SYSTEM)
    account_change(account=moving, time_zone="Asia/Kolkata", actor=SYSTEM)
    # Who began and never paid, by hand too.
    waiting = account_make()
    begun = begin(waiting, pro)
    assert begun.to_pay is not None
    attempt(begun.to_pay)
    # Whom events are told, at an address where nobody listens, and who signed in.
    told = account_make()
    endpoint_create(account=told, url="http://127.0.0.1:1/hook", event_types=["key.created"], actor=SYSTEM)
    api_key_create(account=told, created_by=None, name="main", actor=SYSTEM)
    assert told.personal_of is not None
    session_begin(user=told.personal_of)
    assert free.code == "free"


def spender_with(account: Any, plan: Plan) -> Any:
    subscribe(account, plan)
    due_wallets_roll()
    return account


def company_forget() -> None:
    call_command("flush", interactive=False, verbosity=0)
    cache.clear()


def fingerprint(*, only: set[str] | None = None) -> Fingerprint:
    """Of each table: how many rows, the sum of each amount, how many rows in each state."""
    found: Fingerprint = {}
    for model in apps.get_models():
        name = model._meta.label
        if name in RUN_BY_RUN or model._meta.app_label in ELSEWHERE or (only is not None and name not in only):
            continue
        manager = model._base_manager
        facts: dict[str, Any] = {"rows": manager.count()}
        for field in model._meta.concrete_fields:
            if isinstance(field, models.DecimalField):
                facts[field.name] = manager.aggregate(total=Sum(field.name))["total"]
            elif field.choices or field.name == "kind":
                facts[field.name] = dict(Counter(manager.values_list(field.name, flat=True)))
        found[name] = facts
    sums = LedgerEntry.objects.values_list("ledger_account__kind", "unit").annotate(total=Sum("amount")).order_by()
    return found | {"books": sorted(sums)}


def differences(one: Fingerprint, other: Fingerprint) -> dict[str, Any]:
    return {name: (one[name], other[name]) for name in one if one[name] != other[name]}
