"""Where buyers' browsers go and come back."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.test import Client

from billing.accounts.services import api_key_create
from billing.events.services import SYSTEM
from billing.models import GatewayWebhook, Payment
from tests.factories import account_make
from tests.fakes.server import browse

from .market import Market

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)


def shown_state(page: str) -> str:
    [state] = re.findall(r'data-state="(\w+)"', page)
    return str(state)


def buttons(page: str) -> list[tuple[str, str]]:
    return re.findall(r'<a class="(button[^"]*)" href="([^"]*)"', page)


@pytest.mark.parametrize("slug", ["chargily", "stripe", "paypal", "razorpay"])
def test_the_return_page_asks_the_gateway_and_shows_the_truth(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.top_up()
    landing = market.act(payment)

    page = browse("GET", landing.location)

    payment.refresh_from_db()
    assert landing.location.startswith(f"{market.url}/payment/return/{payment.reference}")
    assert (page.status, shown_state(page.body), payment.state) == (200, "succeeded", "succeeded")
    assert market.credits() == 1050
    assert buttons(page.body) == [("button button-main", "/billing/")]
    assert "http-equiv" not in page.body
    assert not GatewayWebhook.objects.exists()


def test_payus_browsers_go_through_our_form_and_come_back_to_the_page(market_of: MarketOf) -> None:
    market = market_of("payu")
    payment = market.top_up()

    ours = browse("GET", payment.checkout_url)
    action, fields = ours.form
    landing = market.fake.act("", "pay", form_action=action, form=fields)
    back, answer = landing.form
    returned = browse("POST", back, answer)
    page = browse("GET", f"{market.url}{returned.location}")

    payment.refresh_from_db()
    assert payment.checkout_url == f"{market.url}/payment/pay/{payment.reference}"
    assert (returned.status, returned.location) == (303, f"/payment/return/{payment.reference}")
    assert (shown_state(page.body), payment.state, market.credits()) == ("succeeded", "succeeded", 1050)


def test_a_return_made_by_hand_changes_nothing(market_of: MarketOf) -> None:
    market = market_of("payu")
    payment = market.top_up()
    landing = market.fake.act("", "decline", form_action=payment.form_action, form=payment.form_fields)
    back, answer = landing.form

    forged = browse("POST", back, answer | {"status": "success"})

    payment.refresh_from_db()
    assert (forged.status, payment.state, market.credits()) == (400, "pending", 0)


def test_the_page_of_an_open_payment_refreshes_and_leads_to_the_gateway(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.top_up()

    page = browse("GET", f"{market.url}/payment/return/{payment.reference}")
    browse("GET", f"{market.url}/payment/return/{payment.reference}")

    assert shown_state(page.body) == "pending"
    assert '<meta http-equiv="refresh" content="6">' in page.body
    assert buttons(page.body) == [("button button-main", payment.checkout_url), ("button", "/billing/")]
    # The second view within five seconds asked nobody.
    assert len(market.fake.calls("GET", "/v1/checkout/sessions/")) == 1


def test_a_gateway_that_does_not_answer_leaves_the_page_waiting(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    market.act(payment)
    market.fake.fail("error")

    page = browse("GET", f"{market.url}/payment/return/{payment.reference}")

    assert (page.status, shown_state(page.body)) == (200, "pending")


def test_a_payment_under_review_says_so(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    market.act(payment)
    market.fake.checkouts[payment.checkout_id]["amount"] = 100

    page = browse("GET", f"{market.url}/payment/return/{payment.reference}")

    assert shown_state(page.body) == "review"
    assert buttons(page.body) == [("button button-main", "/billing/")]
    assert market.credits() == 0


@pytest.mark.parametrize("state", ["failed", "expired", "canceled"])
def test_a_payment_that_came_to_nothing_can_be_tried_again(market_of: MarketOf, state: str) -> None:
    market = market_of("stripe")
    payment = market.top_up()
    Payment.objects.update(state=state)

    page = browse("GET", f"{market.url}/payment/return/{payment.reference}")

    again = f"/billing/payments/{payment.reference}"
    assert shown_state(page.body) == state
    assert buttons(page.body) == [("button button-main", again), ("button", "/billing/")]


def test_unknown_references_and_payments_by_hand_have_no_page(market_of: MarketOf) -> None:
    market = market_of("chargily")
    market.fake.fail("busy")
    by_hand = market.top_up()

    statuses = [browse("GET", f"{market.url}/payment/return/{name}").status for name in ("panosuch", by_hand.reference)]

    assert (by_hand.gateway, statuses) == ("manual", [404, 404])


def test_the_form_is_gone_once_the_payment_is_over(market_of: MarketOf) -> None:
    market = market_of("payu")
    payment = market.paid(market.top_up())

    page = browse("GET", payment.checkout_url)

    assert (page.status, page.location) == (302, f"/payment/return/{payment.reference}")


def secret_of(account: Any) -> str:
    _key, secret = api_key_create(account=account, created_by=None, name="shop", actor=SYSTEM)
    return secret


def verify(slug: str, secret: str, fields: dict[str, str]) -> Any:
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return Client().post(f"/api/payment/{slug}/verify", data=fields, content_type="application/json", headers=headers)


def returned_fields(market: Market, payment: Payment) -> dict[str, str]:
    """What the browser brings back after paying."""
    landing = market.act(payment)
    if market.slug == "payu":
        return landing.form[1]
    return dict(parse_qsl(urlsplit(landing.location).query))


@pytest.mark.parametrize("slug", ["razorpay", "payu"])
def test_a_customers_own_page_hands_the_return_in(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.top_up()
    fields = returned_fields(market, payment)

    answer = verify(slug, secret_of(market.account), fields)

    assert answer.status_code == 200
    assert (answer.json()["reference"], answer.json()["state"]) == (payment.reference, "succeeded")
    assert market.credits() == 1050


@pytest.mark.parametrize("slug", ["razorpay", "payu"])
def test_what_no_gateway_signed_is_refused(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.top_up()
    fields = returned_fields(market, payment)
    forged = {name: "0" * len(value) if name in ("hash", "razorpay_signature") else value for name, value in fields.items()}

    answer = verify(slug, secret_of(market.account), forged)

    payment.refresh_from_db()
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "signature_not_valid")
    assert (payment.state, market.credits()) == ("pending", 0)


@pytest.mark.parametrize("slug", ["razorpay", "payu"])
def test_somebody_elses_payment_does_not_exist(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    fields = returned_fields(market, market.top_up())

    stranger = verify(slug, secret_of(account_make()), fields)
    nobody = verify(slug, "", fields)

    assert (stranger.status_code, nobody.status_code) == (404, 401)
    assert market.credits() == 0
