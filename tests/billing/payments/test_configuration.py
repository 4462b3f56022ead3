"""Gateways as the settings have them, and the checks that speak up about them."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import cache
from pytest_django.fixtures import Settings

from billing.payments.checkout import gateways_usable
from billing.payments.checks import gateways_are_usable
from billing.payments.configuration import gateway_build, gateway_configured, gateways_offered
from tests.billing.payments.gateways.setups import SETUPS, request_for

ALL = ["chargily", "stripe", "paypal", "razorpay", "payu"]


def found() -> list[tuple[str, str]]:
    return [(str(message.id), message.msg.split()[0]) for message in gateways_are_usable(None)]


@pytest.mark.parametrize("slug", ALL)
def test_good_settings_say_nothing(fake_of: Callable[[str], Any], slug: str) -> None:
    fake_of(slug)

    assert found() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"PAYMENT_GATEWAYS": ["stripe"]}, [("billing.E001", "STRIPE_SECRET_KEY"), ("billing.E004", "STRIPE_WEBHOOK_SECRETS")]),
        (
            {"PAYMENT_GATEWAYS": ["stripe"], "STRIPE_SECRET_KEY": "sk_test_x", "STRIPE_WEBHOOK_SECRETS": [""]},
            [("billing.E004", "STRIPE_WEBHOOK_SECRETS")],
        ),
        ({"PAYMENT_GATEWAYS": ["chargily"], "CHARGILY_SECRET_KEY": "live_sk_x"}, [("billing.E002", "CHARGILY_SECRET_KEY")]),
        ({"CHARGILY_SECRET_KEY": "live_sk_x"}, [("billing.E002", "CHARGILY_SECRET_KEY")]),
        ({"CHARGILY_SECRET_KEY": "live_sk_x", "PAYMENT_MODE": "live"}, []),
        (
            {"PAYMENT_GATEWAYS": ["chargily"], "CHARGILY_SECRET_KEY": "test_sk_x", "PAYMENT_MODE": "live"},
            [("billing.E003", "CHARGILY_SECRET_KEY")],
        ),
        ({"PAYMENT_GATEWAYS": ["chargilly"]}, [("billing.E005", "PAYMENT_GATEWAYS")]),
        ({"PRODUCTION": True, "STRIPE_API_URL": "http://stripe.internal"}, [("billing.E006", "STRIPE_API_URL")]),
        (
            {"PAYMENT_GATEWAYS": ["payu"], "PAYU_MERCHANT_KEY": "key", "PAYU_SALTS": ["salt"]},
            [("billing.W001", "PAYU_WEBHOOK_TOKENS")],
        ),
        ({}, []),
    ],
)
def test_what_is_wrong_is_said(settings: Settings, changes: dict[str, Any], said: list[tuple[str, str]]) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)

    assert found() == said


def test_a_gateway_with_a_problem_is_not_offered(fake_of: Callable[[str], Any], settings: Settings) -> None:
    fake_of("razorpay")
    fake_of("payu")
    settings.RAZORPAY_WEBHOOK_SECRETS = []

    assert [gateway.slug for gateway in gateways_offered()] == ["payu"]
    assert gateway_configured("razorpay") is not None


def test_the_first_enabled_is_preferred_and_currencies_decide(fake_of: Callable[[str], Any], settings: Settings) -> None:
    for slug in ALL:
        fake_of(slug)
    settings.PAYMENT_GATEWAYS = ["payu", "razorpay", "stripe", "paypal", "chargily"]
    price = SETUPS["stripe"].money.amount

    usable = {
        currency: [one.slug for one in gateways_usable(amount=price, currency=currency)] for currency in ("INR", "EUR", "DZD")
    }

    assert usable == {"INR": ["payu", "razorpay", "stripe"], "EUR": ["stripe", "paypal"], "DZD": ["stripe"]}


def test_paypals_token_is_shared_and_never_in_clear(fake_of: Callable[[str], Any]) -> None:
    cache.clear()
    fake = fake_of("paypal")
    gateway: Any = gateway_build("paypal")
    gateway.create_checkout(request_for(SETUPS["paypal"]))
    gateway_build.cache_clear()

    other_process: Any = gateway_build("paypal")
    other_process.fetch_payment(checkout_id=next(iter(fake.orders)))

    assert other_process is not gateway
    assert len(fake.calls("POST", "/v1/oauth2/token")) == 1
    [token] = fake.tokens
    assert [key for key in cache.keys("payments:paypal-token:*") if token in str(cache.get(key))] == []  # type: ignore[attr-defined]
    assert cache.keys("payments:paypal-token:*")  # type: ignore[attr-defined]
