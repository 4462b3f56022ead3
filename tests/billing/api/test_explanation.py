"""`GET /api/billing/usage/{id}`: the charge of a call, from prices to lots."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.accounts.models import Account
from billing.ledger.credits import credits_consume, service_hold_open, service_hold_release, service_hold_settle
from billing.ledger.items import CallItem, HoldItem, UsageItem
from billing.ledger.models import Lot
from billing.ledger.services import call_settle, hold_open, holds_reap
from billing.plans.models import ServicePrice
from billing.subscriptions.selectors import subscription_live
from iafactory.common import clock
from iafactory.common.ids import uuid7
from tests.factories import lot_make

from .conftest import PRICE, call_make, code, key_client, session_client

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("books")]

D = Decimal


def explain(account: Account, call_id: object, language: str = "en") -> Any:
    response = key_client(account).get(f"/api/billing/usage/{call_id}", headers={"accept-language": language})
    assert response.status_code == 200
    return response.json()


def test_from_tokens_to_credits(amina: Account) -> None:
    bonus = lot_make(amina.pk, 1, kind=Lot.Kind.BONUS)
    bought = Lot.objects.get(wallet=amina.pk, kind=Lot.Kind.PURCHASE)
    call_id = call_make(amina, held=D(5))

    body = explain(amina, call_id)

    assert (body["request_id"], body["credits"], body["ended"]) == (str(call_id), 1.305, "Complete.")
    assert body["tokens"] == {
        "input": 1000,
        "cache_read": 200,
        "cache_write": 0,
        "output": 500,
        "reasoning": 100,
        "estimated": False,
    }
    assert body["price"] == {
        "version": PRICE["price_id"],
        "usd_per_million_tokens": {"input": 2.5, "cached_input": 1.25, "output": 10},
        "unit_prices": [],
        "credits_per_unit": None,
        "units": None,
    }
    assert body["markup"] == {"margin_multiplier": 1.8, "usd_per_credit": 0.01, "rounding": "exact"}
    assert (body["list_cost_usd"], body["hold"]) == (0.00725, {"credits": 5, "returned": 3.695})
    assert body["lots"] == [
        {"id": str(bonus.pk), "kind": "bonus", "source": "test", "credits": 1},
        {"id": str(bought.pk), "kind": "purchase", "source": "test", "credits": 0.305},
    ]
    assert (body["balance_before"], body["balance_after"]) == (101, 99.695)
    assert body["arithmetic"] == [
        "800 input tokens × 2.5 USD a million = 0.002 USD",
        "200 cached input tokens × 1.25 USD a million = 0.00025 USD",
        "400 output tokens × 10 USD a million = 0.004 USD",
        "100 reasoning tokens × 10 USD a million = 0.001 USD",
        "List cost: 0.00725 USD",
        "0.00725 USD × 1.8 ÷ 0.01 USD a credit = 1.305 credits",
        "Rounded half up to 6 decimal places, at least 0.000001: 1.305 credits",
        "Charged: 1.305 credits",
    ]
    french = explain(amina, call_id, "fr")
    assert french["ended"] == "Terminé."
    assert french["arithmetic"] == [
        "800 jetons d’entrée × 2,5 USD le million = 0,002 USD",
        "200 jetons d’entrée en cache × 1,25 USD le million = 0,00025 USD",
        "400 jetons de sortie × 10 USD le million = 0,004 USD",
        "100 jetons de raisonnement × 10 USD le million = 0,001 USD",
        "Coût catalogue : 0,00725 USD",
        "0,00725 USD × 1,8 ÷ 0,01 USD le crédit = 1,305 crédits",
        "Arrondi à 6 décimales, au moins 0,000001 : 1,305 crédits",
        "Facturé : 1,305 crédits",
    ]
    arabic = explain(amina, call_id, "ar")
    assert arabic["ended"] == "اكتمل."
    assert arabic["arithmetic"][0] == "800 من رموز الإدخال × 2,5 دولار للمليون = 0,002 دولار"
    assert arabic["arithmetic"][-1] == "المحتسب: 1,305 رصيد"


NO_TOKENS: dict[str, Any] = dict.fromkeys(
    ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"), 0
)
TERMS = {name: PRICE[name] for name in ("price_id", "margin_multiplier", "usd_per_credit", "rounding", "charged")}


def priced_by(unit: str, count: str, per: int, usd: str, **tokens: str) -> dict[str, Any]:
    line = {"name": "any", "unit": unit, "count": count, "per": per, "usd": usd}
    return {**TERMS, **tokens, "unit_prices": [line]}


@pytest.mark.parametrize(
    ("unit", "count", "per", "usd", "cost", "line"),
    [
        ("images", "2", 1, "0.05", "0.1", "2 images × 0.05 USD = 0.1 USD"),
        ("characters", "200", 1000, "0.015", "0.003", "200 characters × 0.015 USD a thousand = 0.003 USD"),
        ("seconds", "12.5", 3600, "0.36", "0.00125", "12.5 seconds × 0.36 USD an hour = 0.00125 USD"),
        ("clips", "1", 1, "0.05", "0.05", "1 clip × 0.05 USD = 0.05 USD"),
    ],
)
def test_from_other_units_to_credits(amina: Account, unit: str, count: str, per: int, usd: str, cost: str, line: str) -> None:
    charge = D(cost) * 180
    price = priced_by(unit, count, per, usd)
    call_id = call_make(amina, charge, units={unit: count}, price=price, list_cost_usd=D(cost), cost_usd=D(cost), **NO_TOKENS)

    body = explain(amina, call_id)

    assert body["units"] == {unit: float(count)}
    assert body["price"]["unit_prices"] == [{"unit": unit, "per": per, "usd": float(usd)}]
    assert body["arithmetic"][0] == line
    assert body["arithmetic"][-1] == f"Charged: {charge.normalize():f} credits"
    assert not any(step.startswith("List cost") for step in body["arithmetic"])


def test_text_around_an_image_is_explained_beside_it(amina: Account) -> None:
    price = priced_by("images", "1", 1, "0.0336", input_per_mtok="1.5", output_per_mtok="7.5")
    tokens = NO_TOKENS | {"input_tokens": 1000, "output_tokens": 400}
    call_id = call_make(amina, "6.858", units={"images": "1"}, price=price, list_cost_usd=D("0.0381"), **tokens)

    assert explain(amina, call_id)["arithmetic"][:4] == [
        "1 image × 0.0336 USD = 0.0336 USD",
        "1000 input tokens × 1.5 USD a million = 0.0015 USD",
        "400 output tokens × 7.5 USD a million = 0.003 USD",
        "List cost: 0.0381 USD",
    ]


def test_tokens_that_a_unit_covers_are_no_part_of_the_price(amina: Account) -> None:
    price = priced_by("seconds", "60", 3600, "0.18", input_per_mtok="1.25", output_per_mtok="5")
    tokens = NO_TOKENS | {"input_tokens": 330, "output_tokens": 80}
    call_id = call_make(amina, "0.54", units={"seconds": "60"}, price=price, list_cost_usd=D("0.003"), **tokens)

    body = explain(amina, call_id)

    assert body["arithmetic"][0] == "60 seconds × 0.18 USD an hour = 0.003 USD"
    assert not any("tokens" in step for step in body["arithmetic"])
    assert body["tokens"]["input"] == 330


def test_input_alone_has_a_price(amina: Account) -> None:
    price = {**TERMS, "input_per_mtok": "0.02"}
    tokens = NO_TOKENS | {"input_tokens": 100_000}
    call_id = call_make(amina, "0.36", price=price, list_cost_usd=D("0.002"), **tokens)

    assert explain(amina, call_id)["arithmetic"][0] == "100000 input tokens × 0.02 USD a million = 0.002 USD"


def test_whole_credits(amina: Account) -> None:
    call_id = call_make(amina, 1, price={**PRICE, "rounding": "whole"})

    assert explain(amina, call_id)["arithmetic"][-2:] == [
        "Rounded half up to whole credits, at least 1: 1 credits",
        "Charged: 1 credits",
    ]


def test_tokens_written_to_the_cache_for_an_hour(amina: Account) -> None:
    price = {**PRICE, "cache_write_per_mtok": "3.75", "cache_write_1h_per_mtok": "6"}
    # 500 fresh, 100 for five minutes, 400 for an hour, 10 out.
    cost = D("0.001250") + D("0.000375") + D("0.0024") + D("0.0001")
    call_id = call_make(
        amina,
        D("0.7425"),
        price=price,
        list_cost_usd=cost,
        cache_read_tokens=0,
        cache_write_tokens=500,
        output_tokens=10,
        reasoning_tokens=0,
    )

    assert explain(amina, call_id)["arithmetic"] == [
        "500 input tokens × 2.5 USD a million = 0.00125 USD",
        "100 tokens written to the cache × 3.75 USD a million = 0.000375 USD",
        "400 tokens written to the cache for an hour × 6 USD a million = 0.0024 USD",
        "10 output tokens × 10 USD a million = 0.0001 USD",
        "List cost: 0.004125 USD",
        "0.004125 USD × 1.8 ÷ 0.01 USD a credit = 0.7425 credits",
        "Rounded half up to 6 decimal places, at least 0.000001: 0.7425 credits",
        "Charged: 0.7425 credits",
    ]


def test_a_cost_that_tokens_do_not_explain_is_said_to_be_booked(amina: Account) -> None:
    call_id = call_make(amina, D("1.8"), list_cost_usd=D("0.01"))

    assert "List cost as it was booked: 0.01 USD" in explain(amina, call_id)["arithmetic"]


def test_a_call_on_a_quota(amina: Account) -> None:
    call_id = call_make(amina, 0, quota_units=1, price={**PRICE, "charged": False})

    body = explain(amina, call_id)

    assert (body["markup"], body["lots"], body["balance_before"], body["balance_after"]) == (None, [], 100, 100)
    assert body["arithmetic"][-3:] == [
        "List cost: 0.00725 USD",
        "Counted as 1 of the plan's requests",
        "Charged: 0 credits",
    ]


def test_a_call_that_failed(amina: Account) -> None:
    call_id = call_make(amina, 0, end="provider_error", error_code="provider_error", list_cost_usd=D(0), price={})

    body = explain(amina, call_id)

    assert body["ended"] == "The provider failed and nothing was delivered; nothing is charged."
    assert body["arithmetic"] == ["Charged: 0 credits"]


def test_a_call_beyond_the_balance(amina: Account) -> None:
    now = clock.now()
    item = HoldItem(
        id=uuid7(),
        account_id=amina.pk,
        credits=D(1),
        worst_cost_usd=D(0),
        opened_at=now,
        expires_at=now + timedelta(minutes=1),
        endpoint="/v1/chat/completions",
    )
    hold_open(item)
    usage = UsageItem(
        id=item.id,
        started_at=now,
        finished_at=now,
        account_id=amina.pk,
        endpoint=item.endpoint,
        end="complete",
        input_tokens=1_000_000,
        list_cost_usd=D("2.5"),
        price=PRICE,
        credits_held=D(1),
    )
    call_settle(CallItem(usage=usage, held=D(1), charge=D(450)))

    body = explain(amina, item.id)

    assert (body["credits"], body["balance_after"]) == (100, 0)
    assert body["arithmetic"][-3:] == [
        "Rounded half up to 6 decimal places, at least 0.000001: 450 credits",
        "No more than the balance covered is charged",
        "Charged: 100 credits",
    ]


@pytest.fixture
def rag(db: None) -> ServicePrice:
    return ServicePrice.objects.create(code="rag", name="Document search", credits=D("1.5"))


def held(account: Account, rag: ServicePrice | None) -> Any:
    return service_hold_open(
        account=account,
        service=rag,
        units=D(4),
        credits=None if rag else D(6),
        request_id="job-1",
        expires_in=timedelta(minutes=1),
        api_key_id=uuid7(),
        subscription_of=subscription_live,
    )


def test_a_service(amina: Account, rag: ServicePrice) -> None:
    consumption = credits_consume(
        account=amina, service=rag, units=D(2), request_id="order-1", api_key_id=uuid7(), subscription_of=subscription_live
    )

    body = explain(amina, consumption.id)

    assert (body["endpoint"], body["model"], body["api_key"]) == ("service:rag", None, None)
    assert (body["price"]["credits_per_unit"], body["price"]["units"]) == (1.5, 2)
    assert (body["balance_before"], body["balance_after"]) == (100, 97)
    assert body["arithmetic"] == ["2 × 1.5 credits (rag) = 3 credits", "Charged: 3 credits"]


def test_a_services_hold_settled_for_less(amina: Account, rag: ServicePrice) -> None:
    hold = held(amina, rag)
    service_hold_settle(account=amina, request_id="job-1", credits=D(2), units=None, api_key_id=None)

    body = explain(amina, hold.id)

    assert (body["hold"], body["plan"]) == ({"credits": 6, "returned": 4}, "payg")
    assert body["arithmetic"] == [
        "4 × 1.5 credits (rag) = 6 credits",
        "It came to 2 credits",
        "Charged: 2 credits",
    ]


def test_a_hold_of_named_credits_released(amina: Account) -> None:
    hold = held(amina, None)
    service_hold_release(account=amina, request_id="job-1", api_key_id=None)

    body = explain(amina, hold.id)

    assert body["ended"] == "The service gave its hold back; nothing is charged."
    assert (body["endpoint"], body["api_key"]) == ("credits", None)
    assert body["arithmetic"] == ["6 credits set aside by the service", "Charged: 0 credits"]


def test_a_services_hold_settled_late(amina: Account, rag: ServicePrice) -> None:
    hold = held(amina, rag)
    holds_reap(now=clock.now() + timedelta(minutes=2))
    reaped = explain(amina, hold.id)
    service_hold_settle(account=amina, request_id="job-1", credits=D(2), units=None, api_key_id=None)

    late = explain(amina, hold.id)

    assert (reaped["ended"], reaped["arithmetic"]) == (
        "It was cut off on our side; nothing is charged.",
        ["Charged: 0 credits"],
    )
    assert late["ended"] == "Complete; charged after its hold's time was over."
    assert late["arithmetic"] == ["It came to 2 credits", "Charged: 2 credits"]


@pytest.mark.parametrize("request_id", ["018f0000-0000-7000-8000-000000000000", "nonsense", "%00", "9" * 300])
def test_what_is_no_call(amina: Account, request_id: str) -> None:
    assert code(key_client(amina).get(f"/api/billing/usage/{request_id}")) == (404, "not_found")


def test_somebody_elses_call(amina: Account, boris: Account) -> None:
    call_id = call_make(boris)

    assert code(key_client(amina).get(f"/api/billing/usage/{call_id}")) == (404, "not_found")
    assert code(session_client(amina).get(f"/api/billing/usage/{call_id}")) == (404, "not_found")


def test_the_balance_of_a_free_call_is_that_of_its_time(amina: Account, customer: Callable[..., Account]) -> None:
    free = call_make(amina, 0, price={})
    call_make(amina, 30)

    assert (explain(amina, free)["balance_before"], explain(amina, free)["balance_after"]) == (100, 100)
