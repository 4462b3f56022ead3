"""Stripe sessions of another page, whose metadata name an API key and credits."""

import urllib.parse
import urllib.request
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from billing.accounts.services import api_key_create
from billing.events.services import SYSTEM
from billing.invoices.models import Invoice
from billing.models import GatewayWebhook, Payment
from tests.billing.payments.market import Market
from tests.billing.subscriptions.selling import wrong

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def market(market_of: Callable[[str], Market]) -> Market:
    return market_of("stripe")


def session_of_another_page(market: Market, **metadata: str) -> str:
    """The other page makes a session with its own call; answers its address."""
    form = {
        "mode": "payment",
        "locale": "auto",
        "line_items[0][price_data][currency]": "usd",
        "line_items[0][price_data][unit_amount]": "1990",
        "line_items[0][quantity]": "1",
        "success_url": "https://other.example/thanks",
        "cancel_url": "https://other.example/",
        **{f"metadata[{name}]": value for name, value in metadata.items()},
    }
    headers = {"authorization": f"Bearer {market.fake.secret_key}", "stripe-version": "2026-10-28.endive"}
    body = urllib.parse.urlencode(form).encode()
    urllib.request.urlopen(urllib.request.Request(f"{market.fake.url}/v1/checkout/sessions", body, headers)).close()
    return str(list(market.fake.sessions.values())[-1]["url"])


def secret_of(market: Market) -> str:
    _key, secret = api_key_create(account=market.account, created_by=None, name="main", actor=SYSTEM)
    return secret


def test_its_credits_are_granted_once_and_invoiced(market: Market) -> None:
    secret = secret_of(market)
    market.fake.act(session_of_another_page(market, apiKey=secret, credits="2000"), "pay")

    market.deliver(threads=20)
    row = GatewayWebhook.objects.get()
    market.queue.waiting = [("billing.payments.webhook_work", str(row.pk))]
    market.queue.work(times=5)

    payment, invoice = Payment.objects.get(), Invoice.objects.get()
    assert (payment.state, payment.received_amount, payment.currency) == ("succeeded", Decimal("19.90"), "USD")
    assert (payment.account, invoice.state, invoice.total) == (market.account, "paid", Decimal("19.90"))
    assert (market.credits(), market.lots()) == (Decimal(2000), 1)
    assert wrong() == []


def test_the_key_is_kept_nowhere(market: Market) -> None:
    secret = secret_of(market)
    market.fake.act(session_of_another_page(market, apiKey=secret, credits="2000"), "pay")

    market.deliver()

    row, payment = GatewayWebhook.objects.get(), Payment.objects.get()
    assert secret.encode() not in bytes(row.body)
    assert b'"apiKey": "[hidden]"' in bytes(row.body)
    assert (row.truth["metadata"], payment.gateway_facts["metadata"]) == ({"apiKey": "[hidden]", "credits": "2000"},) * 2


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"apiKey": "sk-nosuch", "credits": "10"}, "19.9 USD came for an API key that does not exist."),
        ({"apiKey": "OURS", "credits": "many"}, "'many' is no number of credits."),
        ({"apiKey": "OURS", "credits": "-5"}, "'-5' is no number of credits."),
        ({"apiKey": "OURS", "credits": "1e30"}, "'1e30' is no number of credits."),
    ],
)
def test_money_that_cannot_be_placed_waits_for_an_operator(market: Market, metadata: dict[str, str], said: str) -> None:
    secret = secret_of(market)
    own = metadata | ({"apiKey": secret} if metadata["apiKey"] == "OURS" else {})
    market.fake.act(session_of_another_page(market, **own), "pay")

    market.deliver()

    row = GatewayWebhook.objects.get()
    assert (row.state, row.note, market.credits()) == ("failed", said, Decimal(0))
    assert own["apiKey"].encode() not in bytes(row.body)
    assert not Payment.objects.exists()


def test_a_session_that_is_not_paid_brings_nothing(market: Market) -> None:
    market.fake.act(session_of_another_page(market, apiKey=secret_of(market), credits="2000"), "pay_slowly")

    market.deliver()

    assert (market.webhook_states(), market.credits()) == ({"ignored"}, Decimal(0))


def test_it_comes_by_the_older_address_too(market: Market) -> None:
    market.fake.act(session_of_another_page(market, apiKey=secret_of(market), credits="2000"), "pay")
    [delivery] = market.fake.outbox
    headers: dict[str, Any] = delivery.signed()

    answer = Client().post("/webhooks/stripe", data=delivery.body, content_type=headers.pop("content-type"), headers=headers)
    market.queue.work()

    assert (answer.status_code, market.credits()) == (200, Decimal(2000))
