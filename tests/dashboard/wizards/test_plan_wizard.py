"""Publishing a plan: what it earns is shown before it is on sale, and it is written once, as a whole."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from billing.accounts.models import Account
from billing.events.models import Event
from billing.plans.models import CreditPack, FxRate, Plan, PlanPrice
from billing.plans.selectors import public_offers
from billing.subscriptions.models import Subscription
from iafactory.common import clock
from routing.models import AiModel, ModelPrice, ModelProfile, PlanRouting, Provider

pytestmark = pytest.mark.django_db

START = reverse("admin:billing_plan_publish")
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def like(db: None) -> PlanRouting:
    """A plan with routing over one provider, whose one model has a price; one credit is sold for a cent."""
    provider = Provider.objects.create(slug="acme", name="Acme", protocol="openai", base_url="https://api.acme.example/v1")
    for name, price in (("acme-large", "1"), ("acme-odd", None)):
        model = AiModel.objects.create(name=name)
        profile = ModelProfile.objects.create(slug=f"acme/{name}", provider=provider, model=model, upstream_model=name)
        if price:
            ModelPrice.objects.create(profile=profile, effective_from=LONG_AGO, input_per_mtok=1, output_per_mtok=4)
    FxRate.objects.create(base="USD", quote="DZD", rate=200, effective_from=LONG_AGO)
    plan = Plan.objects.create(
        code="basic",
        family="acme",
        name="Basic",
        billing_mode="credits",
        rounding="exact",
        visibility="public",
        period_credits=500,
    )
    PlanPrice.objects.create(plan=plan, currency="DZD", amount=1000, effective_from=LONG_AGO)
    return PlanRouting.objects.create(
        plan=plan, strategy="split", split={"acme": 100}, models_allowed=["*"], default_models={"acme": "acme-large"}
    )


def terms(**changes: Any) -> dict[str, Any]:
    return {
        "name": "Grand",
        "code": "grand",
        "description": "A lot.",
        "family": "acme",
        "sort_order": "20",
        "interval": "month",
        "interval_count": "1",
        "renews": "on",
        "trial_days": "0",
        "features": "rag\nlegal",
    } | changes


def prices(**changes: Any) -> dict[str, Any]:
    return {
        "prices": "DZD 2000\nusd 12",
        "tax_included": "on",
        "billing_mode": "credits",
        "rounding": "exact",
        "period_credits": "1000",
        "daily_limit": "100",
        "overage_ceiling": "",
        "overage_prices": "",
        "requests_per_minute": "30",
        "requests_per_hour": "",
        "requests_per_day": "",
        "tokens_per_minute": "",
        "concurrent_calls": "",
        "priority": "5",
    } | changes


def models(like: PlanRouting, **changes: Any) -> dict[str, Any]:
    return {
        "models_allowed": ["acme-large"],
        "like": like.pk,
        "cost_allowance_usd": "",
        "context_cap": "",
        "margin_multiplier": "1.8",
        "usd_per_credit": "0.01",
        "expected_messages": "1000",
        "expected_cost_usd": "acme 0.002",
    } | changes


def walk(console: Client, like: PlanRouting, *, start: Any = "", **changes: dict[str, Any]) -> str:
    """The address of the last page."""
    address = console.post(START, {"based_on": start})["location"]
    address = console.post(address, terms(**changes.get("terms", {})))["location"]
    address = console.post(address, prices(**changes.get("prices", {})))["location"]
    return str(console.post(address, models(like, **changes.get("models", {})))["location"])


def publish(**changes: Any) -> dict[str, Any]:
    return {"publish": "publish", "reason": "autumn offer"} | changes


def shown(response: Any) -> dict[str, tuple[str, str]]:
    return {str(name): (str(cost), str(left)) for name, cost, left in response.context["uses"]}


def test_a_plan_is_published_with_its_prices_and_routing(console: Client, like: PlanRouting) -> None:
    last = walk(console, like)

    answer = console.post(last, publish())

    plan = Plan.objects.get(code="grand")
    assert answer["location"] == reverse("admin:billing_plan_change", args=[plan.pk])
    assert (plan.visibility, plan.name, plan.period_credits, plan.daily_limit) == (
        "public",
        "Grand",
        Decimal(1000),
        Decimal(100),
    )
    assert (plan.features, plan.requests_per_minute, plan.priority) == (["rag", "legal"], 30, 5)
    found = {price.currency: price.amount for price in plan.prices.all()}
    assert found == {"DZD": Decimal(2000), "USD": Decimal(12)}
    routing = plan.routing
    assert (routing.strategy, routing.split, routing.models_allowed) == ("split", {"acme": 100}, ["acme-large"])
    assert (routing.expected_messages, routing.expected_cost_usd) == (1000, {"acme": "0.002"})
    assert "grand" in {offer.plan.code for offer in public_offers(at=clock.now())}
    events = list(Event.objects.order_by("kind", "id").values_list("kind", "reason"))
    assert events == [
        ("plan.created", "autumn offer"),
        ("plan_price.created", "autumn offer"),
        ("plan_price.created", "autumn offer"),
        ("plan_routing.created", "autumn offer"),
    ]


def test_the_preview_says_what_typical_and_full_use_cost(console: Client, like: PlanRouting) -> None:
    page = console.get(walk(console, like))

    # 2,000 DZD at 200 is 10 USD; a credit costs at most 0.01 / 1.8.
    assert shown(page) == {
        "Typical use, as assumed": ("2.00 USD", "8.00 USD"),
        "Full use of what is included": ("5.56 USD", "4.44 USD"),
        "Break-even": ("1,800 credits a period, at the dearest", "0.00 USD"),
    }
    assert page.context["warnings"] == []
    rows = [str(cost) for name, cost, _left in page.context["uses"] if str(name) == "Break-even"]
    assert rows == ["5,000 messages a period", "1,800 credits a period, at the dearest"]


def test_the_preview_writes_nothing(console: Client, like: PlanRouting) -> None:
    console.get(walk(console, like))

    assert (Plan.objects.count(), PlanPrice.objects.count(), PlanRouting.objects.count()) == (1, 1, 1)
    assert Event.objects.count() == 0


def test_a_plan_that_loses_money_is_put_on_sale_only_after_a_word_about_it(console: Client, like: PlanRouting) -> None:
    last = walk(console, like, prices={"period_credits": "3000"})
    page = console.get(last)
    refused = console.post(last, publish())
    before = Plan.objects.count()

    answer = console.post(last, publish(accept_risk="on"))

    assert page.context["warnings"] == ["A period earns 10.00 USD and may cost 16.67 USD: what its 3,000 credits cover."]
    assert refused.context["form"].errors["accept_risk"] == [
        "On these terms the plan can lose money: confirm that you have seen it."
    ]
    assert (before, answer.status_code) == (1, 302)
    event = Event.objects.get(kind="plan.risk_accepted")
    assert (event.reason, event.after["worst_cost_usd"]) == ("autumn offer", "16.666666667")


def test_models_without_a_price_and_those_nobody_serves_are_named(console: Client, like: PlanRouting) -> None:
    ModelProfile.objects.filter(model__name="acme-large").update(enabled=False)
    PlanRouting.objects.update(models_allowed=["acme-large"])
    last = walk(
        console, like, start=like.plan_id, terms={"code": "grand"}, models={"models_allowed": ["acme-large", "acme-odd"]}
    )

    page = console.get(last)

    assert page.context["warnings"] == [
        "Models in the plan without a price, whose calls are refused: acme-odd",
        "Models in the plan that no provider in use serves: acme-large",
    ]


def test_a_price_without_a_rate_is_a_warning(console: Client, like: PlanRouting) -> None:
    page = console.get(walk(console, like, prices={"prices": "EUR 10"}))

    assert page.context["warnings"] == ["What it earns in USD is not known: a price or an exchange rate is missing."]
    assert shown(page)["Full use of what is included"] == ("5.56 USD", "–")


def test_bought_credits_that_cost_more_than_they_earned_are_a_warning(console: Client, like: PlanRouting) -> None:
    CreditPack.objects.create(code="p", name="P", credits=1000, amount=5, currency="USD")

    page = console.get(walk(console, like))

    assert page.context["warnings"] == ["A bought credit earned 0.005 USD and may cost 0.005556 USD when it is spent here."]


def test_a_draft_is_hidden_and_then_changed_itself(console: Client, like: PlanRouting) -> None:
    console.post(walk(console, like), publish(publish="draft"))
    draft = Plan.objects.get(code="grand")
    begun = console.post(START, {"based_on": draft.pk})["location"]
    proposed = console.get(begun).context["form"]["code"].value()

    again = walk(console, like, start=draft.pk, terms={"name": "Grander"}, prices={"prices": "DZD 2500"})
    console.post(again, publish())

    plan = Plan.objects.get(code="grand")
    assert (draft.visibility, proposed) == ("hidden", "grand")
    assert (plan.pk, plan.name, plan.visibility) == (draft.pk, "Grander", "public")
    amounts = list(plan.prices.filter(currency="DZD").order_by("effective_from").values_list("amount", flat=True))
    assert amounts == [2000, 2500]
    edited = Event.objects.get(kind="plan.edited")
    assert (edited.before, edited.after) == (
        {"name": "Grand", "visibility": "hidden"},
        {"name": "Grander", "visibility": "public"},
    )


def test_a_sold_plan_is_replaced_and_who_has_it_keeps_it(console: Client, like: PlanRouting, account: Account) -> None:
    sold = like.plan
    price = sold.prices.get()
    subscription = Subscription.objects.get(account=account)
    Subscription.objects.filter(pk=subscription.pk).update(plan=sold, price=price)
    begun = console.post(START, {"based_on": sold.pk})["location"]
    proposed = console.get(begun).context["form"]["code"].value()
    taken = console.post(begun, terms(code="basic"))

    last = walk(console, like, start=sold.pk, terms={"code": "basic-2"})
    console.post(last, publish(replace="on"))

    sold.refresh_from_db()
    subscription.refresh_from_db()
    assert proposed == "basic-2"
    assert taken.context["form"].errors["code"] == ["A plan of this code is on sale or was sold: choose another code."]
    assert (sold.visibility, sold.period_credits, sold.name) == ("archived", Decimal(500), "Basic")
    assert (subscription.plan_id, subscription.price_id) == (sold.pk, price.pk)
    assert Plan.objects.get(code="basic-2").visibility == "public"


def test_every_field_begins_with_the_plan_that_is_chosen(console: Client, like: PlanRouting) -> None:
    first = console.post(START, {"based_on": like.plan_id})["location"]
    second = console.post(first, terms(code="basic-2"))["location"]
    form = console.get(second).context["form"]
    third = console.post(second, prices())["location"]
    routing = console.get(third).context["form"]

    assert (form["prices"].value(), form["period_credits"].value()) == ("DZD 1000", "500")
    assert (routing["every_model"].value(), routing["like"].value(), routing["margin_multiplier"].value()) == (
        True,
        like.pk,
        "1.8",
    )


def test_a_second_submit_writes_nothing_twice(console: Client, like: PlanRouting) -> None:
    last = walk(console, like)
    first = console.post(last, publish())
    events = Event.objects.count()

    second = console.post(last, publish())

    assert second["location"] == first["location"]
    assert (Plan.objects.filter(code="grand").count(), Event.objects.count()) == (1, events)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"prices": ""}, "prices"),
        ({"prices": "DZD -5"}, "prices"),
        ({"prices": "DZD 1.00001"}, "prices"),
        ({"prices": "dinar 5"}, "prices"),
        ({"prices": "DZD 1\ndzd NaN"}, "prices"),
        ({"period_credits": "-1"}, "period_credits"),
        ({"billing_mode": "metered"}, "overage_ceiling"),
        ({"billing_mode": "metered", "overage_ceiling": "100"}, "overage_prices"),
        ({"overage_prices": "DZD 1"}, "overage_prices"),
    ],
)
def test_prices_and_limits_that_cannot_be_are_refused(
    console: Client, like: PlanRouting, values: dict[str, str], field: str
) -> None:
    address = console.post(START, {"based_on": ""})["location"]
    address = console.post(address, terms())["location"]

    page = console.post(address, prices(**values))

    assert page.status_code == 200
    assert field in page.context["form"].errors


def test_no_reason_no_plan(console: Client, like: PlanRouting) -> None:
    page = console.post(walk(console, like), publish(reason=" "))

    assert list(page.context["form"].errors) == ["reason"]
    assert Plan.objects.count() == 1
