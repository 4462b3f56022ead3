"""What adapters say about the settings they were made from, and what they keep to themselves."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from billing.payments.gateways.base import CheckoutRequest, GatewayRefused, Mode, Money, PaymentState, differences

from .conftest import Pair
from .setups import REFERENCE, request_for

PairOf = Callable[..., Pair]


@pytest.mark.parametrize("slug", ["chargily", "stripe", "paypal", "razorpay", "payu"])
def test_good_settings_have_no_problem(pair_of: PairOf, slug: str) -> None:
    assert list(pair_of(slug).adapter.problems()) == []


@pytest.mark.parametrize(
    ("slug", "changes", "found"),
    [
        ("chargily", {"secret_key": "live_sk_x"}, [("live_key", "CHARGILY_SECRET_KEY")]),
        ("chargily", {"secret_key": "test_pk_x"}, [("test_key", "CHARGILY_SECRET_KEY")]),
        ("chargily", {"mode": Mode.LIVE}, [("test_key", "CHARGILY_SECRET_KEY")]),
        ("chargily", {"secret_key": ""}, [("no_key", "CHARGILY_SECRET_KEY")]),
        ("stripe", {"secret_key": "sk_live_x"}, [("live_key", "STRIPE_SECRET_KEY")]),
        ("stripe", {"secret_key": "rk_live_x"}, [("live_key", "STRIPE_SECRET_KEY")]),
        ("stripe", {"secret_key": "rk_live_x", "mode": Mode.LIVE}, []),
        ("stripe", {"mode": Mode.LIVE}, [("test_key", "STRIPE_SECRET_KEY")]),
        ("stripe", {"webhook_secrets": []}, [("no_webhook_secret", "STRIPE_WEBHOOK_SECRETS")]),
        ("stripe", {"webhook_secrets": ["whsec_a", ""]}, [("no_webhook_secret", "STRIPE_WEBHOOK_SECRETS")]),
        (
            "paypal",
            {"client_id": "", "client_secret": ""},
            [("no_key", "PAYPAL_CLIENT_ID"), ("no_key", "PAYPAL_CLIENT_SECRET")],
        ),
        ("paypal", {"webhook_ids": []}, [("no_webhook_secret", "PAYPAL_WEBHOOK_IDS")]),
        ("razorpay", {"key_id": "rzp_live_x"}, [("live_key", "RAZORPAY_KEY_ID")]),
        ("razorpay", {"key_secret": ""}, [("no_key", "RAZORPAY_KEY_SECRET")]),
        ("razorpay", {"webhook_secrets": [""]}, [("no_webhook_secret", "RAZORPAY_WEBHOOK_SECRETS")]),
        ("payu", {"merchant_key": ""}, [("no_key", "PAYU_MERCHANT_KEY")]),
        ("payu", {"salts": []}, [("no_webhook_secret", "PAYU_SALTS")]),
        ("payu", {"webhook_tokens": [""]}, [("no_webhook_secret", "PAYU_WEBHOOK_TOKENS")]),
    ],
)
def test_problems_are_named_with_their_setting(
    pair_of: PairOf, slug: str, changes: dict[str, Any], found: list[tuple[str, str]]
) -> None:
    problems = pair_of(slug, **changes).adapter.problems()

    assert [(problem.kind, problem.setting) for problem in problems] == found


@pytest.mark.parametrize("slug", ["chargily", "stripe", "paypal", "razorpay"])
def test_secrets_never_reach_the_log(pair_of: PairOf, slug: str, caplog: pytest.LogCaptureFixture) -> None:
    pair = pair_of(slug)
    caplog.set_level("DEBUG")

    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    pair.adapter.fetch_payment(checkout_id=checkout.checkout_id)

    secrets = [getattr(pair.fake, name) for name in ("secret_key", "client_secret", "key_secret") if hasattr(pair.fake, name)]
    assert secrets
    assert [secret for secret in secrets if secret in caplog.text] == []
    assert f"{slug}: POST" in caplog.text


@pytest.mark.parametrize("reference", ["", "a|b", "x" * 41, "pa 1", "é"])
def test_a_reference_that_no_gateway_takes(pair_of: PairOf, reference: str) -> None:
    with pytest.raises(ValueError, match="reference"):
        request_for(pair_of("payu").setup, reference=reference)


@pytest.mark.parametrize("changes", [{"reference": "p" * 26}, {"reference": "pa_1"}, {"email": ""}, {"email": "a|b@c.example"}])
def test_what_payus_form_cannot_carry(pair_of: PairOf, changes: dict[str, str]) -> None:
    pair = pair_of("payu")

    with pytest.raises(GatewayRefused):
        pair.adapter.create_checkout(request_for(pair.setup, **changes))


@pytest.mark.parametrize("amount", [Decimal("NaN"), Decimal("Infinity"), Decimal(-1)])
def test_money_is_finite_and_not_negative(amount: Decimal) -> None:
    with pytest.raises(ValueError):
        Money(amount, "DZD")


def test_money_of_another_currency_is_other_money() -> None:
    assert Money(Decimal("10.0"), "DZD") == Money(Decimal(10), "DZD")
    assert Money(Decimal(10), "DZD") != Money(Decimal(10), "EUR")
    with pytest.raises(ValueError):
        Money(Decimal(10), "dzd")


def test_a_checkout_for_nothing_is_none() -> None:
    with pytest.raises(ValueError, match="more than nothing"):
        CheckoutRequest("pa1", Money(Decimal(0), "DZD"), "x", "https://a.example", "https://a.example")


def test_every_difference_from_what_we_asked_is_told(pair_of: PairOf) -> None:
    pair = pair_of("chargily")
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    pair.fake.act(checkout.url, "pay")
    payment = pair.adapter.fetch_payment(checkout_id=checkout.checkout_id)

    found = differences(payment, reference="paother", money=Money(Decimal(2591), "DZD"), mode=Mode.LIVE)

    assert payment.state is PaymentState.PAID
    assert found == [
        f"reference: {REFERENCE}, not paother",
        "amount: 2590 DZD, not 2591 DZD",
        "paid: 2590 DZD, not 2591 DZD",
        "mode: test, not live",
    ]
