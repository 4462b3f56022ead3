"""Reconciliation in the console: counts, filters, both sides, and deeds with rights and reasons of their own."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pytest_django.fixtures import Settings

from billing.models import Event, Payment, Reconciliation, ReconciliationRow, Refund
from tests.billing.payments.market import Market
from tests.billing.payments.test_console_webhooks import operator

from .days import compared, unheard

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)
ROWS = "/admin/billing/reconciliationrow/"
DAYS = "/admin/billing/reconciliation/"
VIEW = ("view_reconciliation", "view_reconciliationrow", "view_payment")


@pytest.fixture(autouse=True)
def alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REFUND_SECOND_OPERATOR_ABOVE_USD = None
    monkeypatch.setattr("billing.payments.refunds.task_enqueue", lambda *arguments: None)
    monkeypatch.setattr("billing.payments.reconciliation.deeds.task_enqueue", lambda *arguments: None)


@pytest.fixture
def day(market_of: MarketOf) -> Market:
    """A day with a payment that agrees and one that is missing."""
    market = market_of("stripe")
    market.paid(market.top_up())
    unheard(market, market.top_up())
    compared()
    return market


def deed(row: ReconciliationRow | Reconciliation, name: str) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_deed", args=[row.pk, name])


def test_a_days_page_counts_its_rows_by_outcome(day: Market) -> None:
    client = operator(*VIEW)
    run = Reconciliation.objects.get()

    listed = client.get(DAYS).content.decode()
    page = client.get(f"{DAYS}{run.pk}/change/").content.decode()

    counts = re.findall(r'outcome__exact=(\w+)">[^<]*</a></td><td class="figure">(\d+)</td><td class="figure">(\d+)</td>', page)
    assert counts == [
        ("expected", "1", "0"),
        ("missing", "1", "1"),
        ("over", "0", "0"),
        ("under", "0", "0"),
        ("currency", "0", "0"),
        ("duplicate", "0", "0"),
    ]
    assert f"reconciliation__id__exact={run.pk}" in listed


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("state__exact=open", 1),
        ("outcome__exact=expected", 1),
        ("subject__exact=refund", 0),
        ("gateway=stripe", 2),
        ("q=nosuch", 0),
    ],
)
def test_filters_and_search(day: Market, query: str, count: int) -> None:
    client = operator(*VIEW)

    listed = client.get(f"{ROWS}?{query}")

    assert listed.context["cl"].result_count == count


def test_a_row_is_found_by_day_reference_and_gateways_id(day: Market) -> None:
    client = operator(*VIEW)
    row = ReconciliationRow.objects.get(outcome="missing")
    assert row.payment is not None
    asked = [f"reconciliation__id__exact={row.reconciliation_id}", f"q={row.payment.reference}", f"q={row.key}"]

    found = [client.get(f"{ROWS}?{query}").context["cl"].result_count for query in asked]

    assert found == [2, 1, 1]


def test_a_rows_page_shows_both_sides(day: Market) -> None:
    client = operator(*VIEW, "resolve_reconciliationrow")
    row = ReconciliationRow.objects.get(outcome="missing")

    page = client.get(f"{ROWS}{row.pk}/change/").content.decode()

    assert re.findall(r"<td>(state|money)</td><td>([^<]*)</td><td>([^<]*)</td>", page) == [
        ("money", "– ", "19.9 USD"),
        ("state", "expired", "paid"),
    ]
    assert "Book what the gateway says" in page
    assert "Keep what is too much" not in page


def test_lists_take_as_many_queries_for_two_rows_as_for_twenty(day: Market) -> None:
    client = operator(*VIEW)
    row = ReconciliationRow.objects.get(outcome="missing")
    client.get(ROWS)
    with CaptureQueriesContext(
        connection,
    ) as two:
        client.get(ROWS)
    with CaptureQueriesContext(connection) as one_day:
        client.get(DAYS)
    for number in range(18):
        run = Reconciliation.objects.create(gateway="stripe", mode="test", day=datetime(2026, 1, number + 1, tzinfo=UTC).date())
        ReconciliationRow.objects.filter(pk=row.pk).update(key=f"pi_{number}")
        row.pk, row.key, row.reconciliation = None, f"pi_x{number}", run  # type: ignore[assignment]
        row._state.adding = True
        row.id = ReconciliationRow._meta.pk.get_default()
        row.save(force_insert=True)

    with CaptureQueriesContext(connection) as twenty:
        client.get(ROWS)
    with CaptureQueriesContext(connection) as days:
        client.get(DAYS)

    assert (len(twenty), len(days)) == (len(two), len(one_day))


def test_an_operator_books_a_missing_payment_with_a_reason(day: Market) -> None:
    client = operator(*VIEW, "resolve_reconciliationrow")
    row = ReconciliationRow.objects.get(outcome="missing")
    address = deed(row, "apply")

    asked = client.get(address).content.decode()
    without = client.post(address, {"reason": ""})
    done = client.post(address, {"reason": "on Stripe's page"})

    row.refresh_from_db()
    assert "The gateway is asked once more" in asked
    assert (without.status_code, done.status_code) == (200, 302)
    assert (row.state, Payment.objects.filter(state="succeeded").count()) == ("resolved", 2)
    told = Event.objects.get(kind="reconciliation.applied")
    assert (told.reason, told.actor_label, told.before) == ("on Stripe's page", "operator@example.com", {"state": "open"})


def test_what_the_service_refuses_is_said_on_the_page(day: Market) -> None:
    client = operator(*VIEW, "resolve_reconciliationrow")
    row = ReconciliationRow.objects.get(outcome="missing")
    day.fake.fail("error", times=9)

    answer = client.post(deed(row, "apply"), {"reason": "on Stripe's page"})

    row.refresh_from_db()
    assert "stripe does not answer" in answer.content.decode()
    assert row.state == "open"


def test_money_of_nobody_asks_for_an_account(day: Market) -> None:
    client = operator(*VIEW, "resolve_reconciliationrow")
    row = ReconciliationRow.objects.get(outcome="missing")
    assert row.payment is not None
    Payment.objects.filter(pk=row.payment.pk).update(reference="paother", checkout_id="cs_other")
    ReconciliationRow.objects.filter(pk=row.pk).update(payment=None)

    unnamed = client.post(deed(row, "apply"), {"reason": "found"})
    unknown = client.post(deed(row, "apply"), {"reason": "found", "account": "nobody"})
    named = client.post(deed(row, "apply"), {"reason": "found", "account": str(day.account.pk)})

    assert (unnamed.status_code, unknown.status_code, named.status_code) == (200, 200, 302)
    assert Payment.objects.get(gateway_payment_id=row.key).unapplied_amount == day.price


@pytest.mark.parametrize("name", ["apply", "explain", "recheck"])
def test_deeds_need_a_right_of_their_own(day: Market, name: str) -> None:
    client = operator(*VIEW, "add_refund", "change_payment")
    row = ReconciliationRow.objects.get(outcome="missing")

    answer = client.post(deed(row, name), {"reason": "x"})

    row.refresh_from_db()
    assert (answer.status_code, row.state) == (403, "open")


def test_sending_back_needs_the_right_to_refund(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    market.fake.intents[payment.gateway_payment_id]["amount_received"] = 2500
    [row] = compared()
    clerk = operator(*VIEW, "resolve_reconciliationrow")

    refused = clerk.post(deed(row, "refund"), {"reason": "too much"})

    assert (refused.status_code, Refund.objects.count()) == (403, 0)


def test_an_operator_keeps_explains_and_asks_again(market_of: MarketOf) -> None:
    market = market_of("stripe")
    first, second = market.paid(market.top_up()), market.paid(market.top_up())
    for payment in (first, second):
        market.fake.intents[payment.gateway_payment_id]["amount_received"] = 2500
    compared()
    client = operator(*VIEW, "resolve_reconciliationrow")
    kept, explained = ReconciliationRow.objects.order_by("pk")
    run = Reconciliation.objects.get()

    client.post(deed(kept, "keep"), {"reason": "paid too much"})
    client.post(deed(explained, "explain"), {"reason": "a tip"})
    client.post(deed(run, "again"), {"reason": "to be sure"})

    assert list(ReconciliationRow.objects.order_by("pk").values_list("state", "reason")) == [
        ("resolved", "paid too much"),
        ("explained", "a tip"),
    ]
    run.refresh_from_db()
    assert (run.state, Payment.objects.filter(unapplied_amount__gt=0).count()) == ("waiting", 1)


def test_an_operator_has_a_gateway_asked_about_a_payment(market_of: MarketOf) -> None:
    market = market_of("razorpay")
    payment = unheard(market, market.top_up())
    client = operator("view_payment", "change_payment")
    address = reverse("admin:billing_payment_deed", args=[payment.pk, "ask"])
    market.fake.fail("error")

    away = client.post(address, {"reason": "the customer called"})
    meanwhile = Payment.objects.get().state
    done = client.post(address, {"reason": "the customer called"})

    told = Event.objects.get(kind="payment.succeeded")
    assert (away.status_code, meanwhile, done.status_code) == (200, "expired", 302)
    assert (market.credits(), told.reason, told.actor_label) == (1050, "the customer called", "operator@example.com")


def test_nobody_asks_a_gateway_about_money_that_came(market_of: MarketOf) -> None:
    market = market_of("razorpay")
    payment = market.paid(market.top_up())
    client = operator("view_payment", "change_payment")

    page = client.get(f"/admin/billing/payment/{payment.pk}/change/").content.decode()

    assert "Ask the gateway" not in page
