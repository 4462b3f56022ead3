"""The console's home: every figure, the way to its rows, what an operator may not see, and that it stays cheap."""

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from freezegun import freeze_time

from billing.events.services import SYSTEM
from billing.invoices.lines import LineItem
from billing.invoices.models import Invoice
from billing.invoices.services import (
    credit_note_issue,
    credit_note_settle,
    invoice_draft,
    invoice_finalise,
    invoice_payment_apply,
)
from billing.ledger.rollups import usage_days_sum
from billing.models import Account, BooksVerification, Dispute, Payment, SellerProfile, Subscription, UsageRecord, User
from billing.payments.defaults import selling_write
from billing.plans.catalog import catalog_writing
from dashboard.figures import CallSums, Economics, operator_figures, plan_mix
from dashboard.jobs.models import JobState
from iafactory.common import clock
from routing.models import Budget

from .conftest import PASSWORD, call, hold
from .test_console_pages import text_of

D = Decimal
NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)
TODAY = date(2026, 11, 18)
HOME = reverse("admin:index")
Populate = Callable[[int, int], None]


@pytest.fixture
def seller(db: None) -> SellerProfile:
    """Registered for tax: 19 % TVA is included in what is sold."""
    with catalog_writing() as writer:
        selling_write(writer)
    SellerProfile.objects.update(tax_registered=True)
    return SellerProfile.objects.get()


def sell(account: Account, amount: str, *, currency: str = "DZD", rate: str | None = "230") -> Invoice:
    """Something sold and paid now."""
    item = LineItem(kind="plan", description="Pro", amount=D(amount))
    draft = invoice_draft(account=account, purpose="other", items=[item], currency=currency)
    Invoice.objects.filter(pk=draft.pk).update(fx_rate=None if rate is None else D(rate))
    draft.refresh_from_db()
    invoice = invoice_finalise(invoice=draft, actor=SYSTEM)
    invoice_payment_apply(invoice=invoice, amount=invoice.due, at=clock.now(), means="card", actor=SYSTEM)
    invoice.refresh_from_db()
    return invoice


def figures(since: date = TODAY, until: date = TODAY) -> Any:
    return operator_figures(since=since, until=until, now=clock.now())


# --- Figures ---


@freeze_time(NOON)
def test_revenue_is_what_was_paid_without_tax_at_the_invoices_rate(account: Account, seller: SellerProfile) -> None:
    sell(account, "2737")  # 2,300 net: 10 USD
    sell(account, "119", currency="USD", rate=None)

    assert figures().economics == Economics(D("110.00"), D(0))


@freeze_time(NOON)
def test_revenue_shrinks_by_what_went_back(account: Account, seller: SellerProfile) -> None:
    invoice = sell(account, "2737")
    note = credit_note_issue(invoice=invoice, amount=D("1368.5"), reason="half", actor=SYSTEM, key="half", to_balance=False)
    promised = figures().economics.revenue_usd
    credit_note_settle(note=note, means="card", actor=SYSTEM)

    assert (promised, figures().economics.revenue_usd) == (D("10.00"), D("5.00"))


@freeze_time(NOON)
def test_revenue_shrinks_by_what_a_bank_took_back(account: Account, seller: SellerProfile) -> None:
    invoice = sell(account, "2737")
    payment = Payment.objects.create(
        account=account, invoice=invoice, purpose="topup", gateway="stripe", amount=2737, currency="DZD", fx_rate=230
    )
    dispute = Dispute.objects.create(
        payment=payment, gateway_dispute_id="d", amount=2737, currency="DZD", opened_at=NOON, closed_at=NOON, state="lost"
    )
    lost = figures().economics.revenue_usd
    Dispute.objects.filter(pk=dispute.pk).update(state="won")

    assert (lost, figures().economics.revenue_usd) == (D("0.00"), D("10.00"))


@freeze_time(NOON)
def test_money_without_a_rate_is_counted_apart(account: Account, seller: SellerProfile) -> None:
    sell(account, "2737", rate=None)

    assert (figures().economics.revenue_usd, figures().unconverted) == (D(0), 1)


def test_spans_end_today_whatever_is_chosen(account: Account, seller: SellerProfile) -> None:
    for days, amount in ((0, "2737"), (6, "5474"), (7, "10948"), (29, "21896"), (30, "43792")):
        with freeze_time(NOON - timedelta(days=days)):
            sell(account, amount)

    with freeze_time(NOON):
        told = figures(TODAY - timedelta(days=30), TODAY - timedelta(days=30))

    assert (told.today.revenue_usd, told.week.revenue_usd, told.month.revenue_usd) == (10, 30, 150)
    assert told.economics.revenue_usd == 160


@freeze_time(NOON)
def test_calls_by_day_provider_and_account(account: Account) -> None:
    call(account)
    call(account)
    failed = call(account)
    UsageRecord.objects.filter(pk=failed).update(end="provider_error", provider="openrouter", latency_ms=None)

    told = figures()

    served = CallSums(2, 0, D("0.015"), D("2.7"), 1680, 2)
    assert told.providers == [("groq", served), ("openrouter", CallSums(1, 1, D("0.0075"), D("1.35"), 0, 0))]
    assert told.usage == CallSums(3, 1, D("0.0225"), D("4.05"), 1680, 2)
    assert (told.usage.success_percent, told.usage.latency_ms) == (D("66.66"), 840)
    assert [(top.id, top.name, top.usage.calls) for top in told.top_accounts] == [(account.pk, "Sara", 3)]
    assert (told.active_today, told.active_week, told.active_month, told.active) == (1, 1, 1, 1)


def test_closed_days_come_from_their_sums(account: Account) -> None:
    with freeze_time(NOON):
        call(account)
    with freeze_time(NOON + timedelta(days=1)):
        usage_days_sum(now=clock.now())
        with CaptureQueriesContext(connection) as captured:
            told = figures(TODAY, TODAY + timedelta(days=1))

    assert [(day.day, day.usage.calls) for day in told.days] == [(TODAY, 1), (TODAY + timedelta(days=1), 0)]
    assert (told.active_today, told.active_week) == (0, 1)
    assert len(captured) == 6


def test_economics_know_no_margin_without_revenue() -> None:
    assert Economics(D(0), D(5)).margin_percent is None
    assert Economics(D(10), D("2.5")).margin_percent == D("75.00")
    assert Economics(D(10), D(25)).margin_percent == D("-150.00")


def test_plan_mix_counts_live_subscriptions(account: Account) -> None:
    [free] = plan_mix()
    Subscription.objects.update(state="expired")

    assert (free.code, free.name, free.subscriptions, plan_mix()) == ("free", "Free", 1, [])


# --- The page ---


@freeze_time(NOON)
def test_home_tells_the_days(console: Client, account: Account, seller: SellerProfile) -> None:
    call(account)
    hold(account)
    sell(account, "2737")
    Budget.objects.create(daily_limit_usd=D("0.01"))

    page = text_of(console.get(HOME))

    assert "Budget today 0.0075 of 0.0100 75 % 75 % spent, 0.00 left · warning" in page
    assert "Revenue 10.00 net of tax and refunds" in page
    assert "Provider cost 0.0075 1 call, 1.35 credits charged" in page
    assert "Profit 9.99 margin 99.9 %" in page
    assert "Success rate 100.0 % 0 failed calls, 840 ms on average" in page
    assert "Active accounts 1 1 today, 1 in 7 days" in page
    assert "Today 10.00 0.0075 9.99 99.9 % 1 7 days 10.00" in page
    assert "groq 1 100.0 % 840 ms 0.0075" in page
    assert "Sara 1 1.35 0.0075" in page
    assert "Calls under way 1 2 credits held" in page


@freeze_time(NOON)
def test_every_figure_leads_to_its_rows(console: Client, account: Account, seller: SellerProfile) -> None:
    call(account)
    sell(account, "2737")

    page = console.get(HOME).content.decode()
    links = {link.replace("&amp;", "&") for link in re.findall(r'href="([^"]*)"', page)}
    lists = sorted(link for link in links if "_gte=" in link)
    counts = {link: console.get(link).context["cl"].result_count for link in lists}

    assert {link.partition("?")[0] for link in lists} == {"/admin/billing/usagerecord/", "/admin/billing/invoice/"}
    assert set(counts.values()) == {1, 0}
    assert [link for link, count in counts.items() if not count] == [link for link in lists if "end__in=" in link]
    others = [link for link in links if link.startswith("/admin/") and "_gte=" not in link]
    assert {link: console.get(link).status_code for link in others} == dict.fromkeys(others, 200)


@freeze_time(NOON)
def test_other_days_are_shown_on_demand(console: Client, account: Account) -> None:
    with freeze_time(NOON - timedelta(days=40)):
        call(account)

    page = console.get(HOME, {"since": "2026-10-01", "until": "2026-10-31"})

    assert page.context["figures"].usage.calls == 1
    assert "Chosen days" in text_of(page)
    assert json.loads(re.search(r'id="home-charts"[^>]*>(.*?)</script>', page.content.decode()).group(1))["days"]["labels"][
        0
    ] == ("2026-10-01")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"since": "2026-10-31", "until": "2026-10-01"}, "must not lie after"),
        ({"since": "2020-01-01", "until": "2026-10-01"}, "At most 366 days"),
        ({"since": "yesterday"}, "Enter a valid date"),
    ],
)
def test_days_that_make_no_sense_are_refused(console: Client, query: dict[str, str], told: str) -> None:
    page = console.get(HOME, query)

    assert page.status_code == 200
    assert told in text_of(page)
    assert page.context["until"] == clock.now().date()


def test_a_new_installation_is_told_its_first_steps(console: Client) -> None:
    page = console.get(HOME)

    assert [step["done"] for step in page.context["first_steps"]] == [False, False, False, False]
    assert "No call has come yet" in text_of(page)
    assert "<canvas" not in page.content.decode()


def test_what_waits_is_counted_and_found(console: Client, account: Account, populate: Populate) -> None:
    populate(1, 2)
    Payment.objects.filter(gateway="stripe").update(state="review", unapplied_amount=1)
    JobState.objects.filter(task="billing.jobs.1").update(state="failed")

    waiting = console.get(HOME).context["waiting"]

    assert {str(one.label): one.count for one in waiting} == {
        "Payments to review": 2,
        "Payments by hand with a proof": 2,
        "Money without an invoice": 2,
        "Refunds to approve or send": 2,
        "Open disputes": 2,
        "Differences with gateways": 2,
        "Abuse signals": 2,
        "Failed jobs": 1,
    }
    assert {one.url: console.get(one.url).context["cl"].result_count for one in waiting} == {
        one.url: one.count for one in waiting
    }


def test_home_costs_the_same_for_2_rows_and_50(console: Client, populate: Populate) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert console.get(HOME).status_code == 200
        return len(captured)

    populate(1, 2)
    console.get(HOME)
    few = queries()
    populate(3, 50)

    assert (queries() - few, few <= 40) == (0, True)


def test_home_without_rights_tells_nothing(account: Account) -> None:
    call(account)
    client = Client()
    client.force_login(User.objects.create_user("clerk@example.com", "x", is_staff=True))

    page = client.get(HOME)

    assert page.status_code == 200
    assert "Provider cost" not in page.content.decode()
    assert "sara" not in page.content.decode().lower()


def test_home_shows_no_revenue_to_who_may_not_see_invoices(account: Account, seller: SellerProfile) -> None:
    call(account)
    sell(account, "2737")
    clerk = User.objects.create_user("clerk@example.com", PASSWORD, is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename="view_usagerecord"))
    client = Client()
    client.force_login(clerk)

    page = client.get(HOME)

    assert "Provider cost" in text_of(page)
    assert "Revenue 1" not in text_of(page)
    assert "Profit" not in text_of(page)
    assert page.context["charts"]["days"]["revenue"] is None


def test_home_needs_no_inline_script_or_style(console: Client, populate: Populate) -> None:
    populate(1, 1)

    page = console.get(HOME).content.decode()

    assert re.findall(r"<script(?![^>]* src=)(?![^>]*application/json)[^>]*>", page) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=", page) == []


def test_home_with_verified_books(console: Client) -> None:
    now = clock.now()
    BooksVerification.objects.create(started_at=now, finished_at=now, passed=True, checks=[{"name": "x", "differences": []}])

    assert "passed 1 check" in text_of(console.get(HOME))
