"""What plans earn and may cost: the shipped figures to the cent, and every way in which a plan can lose money."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.plans.models import CreditPack, FxRate, Plan, PlanPrice
from iafactory.common.errors import ApiError
from routing.catalog import catalog_load
from routing.economics import (
    Assumptions,
    PlanEconomics,
    assumptions_set,
    cents,
    percent,
    plan_economics,
    plans_economics,
    public_economics,
)
from routing.models import AiModel, ModelProfile, PlanRouting, Provider

pytestmark = pytest.mark.django_db

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
MakePlan = Callable[..., Plan]


@pytest.fixture
def make_plan(db: None) -> MakePlan:
    """A plan for 10 USD a month with routing; `plan` and `routing` change fields of either."""

    def make(plan: dict[str, Any] | None = None, routing: dict[str, Any] | None = None, usd: str | None = "10") -> Plan:
        fields = {"family": "x", "name": "X", "billing_mode": "quota", "visibility": "public", "rounding": "exact"}
        made = Plan.objects.create(code=f"plan-{Plan.objects.count()}", **{**fields, **(plan or {})})
        if usd is not None:
            PlanPrice.objects.create(plan=made, currency="USD", amount=Decimal(usd), effective_from=LONG_AGO)
        defaults = {"strategy": "split", "split": {"groq": 100}, "models_allowed": ["*"]}
        PlanRouting.objects.create(plan=made, **{**defaults, **(routing or {})})
        return Plan.objects.get(pk=made.pk)

    return make


def economics_of(plan: Plan, **options: Any) -> PlanEconomics:
    found = plan_economics(plan, at=AT, **options)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("code", "price", "worst", "expected", "margin"),
    [("student", "6.91", "2.72", "2.72", 61), ("pro", "11.26", "8.59", "8.59", 24)],
)
def test_the_shipped_request_plans(code: str, price: str, worst: str, expected: str, margin: int) -> None:
    catalog_load()

    found = economics_of(Plan.objects.get(code=code))

    assert found.revenue_usd is not None
    assert found.worst_cost_usd is not None
    assert found.expected_cost_usd is not None
    assert found.expected_margin is not None
    assert found.worst_margin is not None
    assert cents(found.revenue_usd) == Decimal(price)
    assert cents(found.worst_cost_usd) == Decimal(worst)
    assert cents(found.expected_cost_usd) == Decimal(expected)
    assert (percent(found.expected_margin), percent(found.worst_margin)) == (margin, margin)


def test_the_sum_behind_student_to_the_last_digit() -> None:
    catalog_load()

    found = economics_of(Plan.objects.get(code="student"))

    # 1,343 messages, 15 % of them through OpenRouter at 0.0135 USD.
    assert found.expected_cost_usd == Decimal("2.719575")
    assert [(share.provider, share.share, share.cost_per_message_usd) for share in found.shares] == [
        ("groq", Decimal("0.85"), Decimal(0)),
        ("openrouter", Decimal("0.15"), Decimal("0.0135")),
    ]
    expected, worst = found.profit(1000)
    assert expected is not None
    assert worst is not None
    assert (cents(expected), cents(worst)) == (Decimal("4193.47"), Decimal("4193.04"))
    assert str(found.rate) == "1 USD = 230 DZD"


def test_no_shipped_plan_can_lose_money() -> None:
    catalog_load()

    found = public_economics(at=AT)

    assert len(found) == 12
    assert {economics.plan.code: economics.risks for economics in found if economics.can_lose_money} == {}


def test_shipped_credits_plans_may_pin_a_provider_and_others_may_not() -> None:
    catalog_load()

    pinned = PlanRouting.objects.filter(provider_pin_allowed=True).values_list("plan__code", flat=True)

    credits = {"credits-free", "credits-starter", "credits-pro", "credits-business", "credits-enterprise"}
    assert set(pinned) == {*credits, "payg"}
    assert PlanRouting.objects.get(plan__code="unlimited-30d").context_cap == 1_000_000


def test_expectation_never_passes_the_allowance(make_plan: MakePlan) -> None:
    routing = {"cost_allowance_usd": Decimal(1), "expected_messages": 1000, "expected_cost_usd": {"groq": "0.5"}}

    found = economics_of(make_plan(routing=routing))

    assert (found.expected_cost_usd, found.expected_margin) == (Decimal(1), Decimal("0.9"))


def test_a_day_plan_takes_its_part_of_a_month(make_plan: MakePlan) -> None:
    routing = {"cost_allowance_usd": Decimal(5), "expected_messages": 300, "expected_cost_usd": {"groq": "0.01"}}

    found = economics_of(make_plan(plan={"interval": "day", "interval_count": 15}, routing=routing))

    assert (found.messages, found.expected_cost_usd) == (Decimal(150), Decimal("1.5"))


def test_an_unknown_cost_of_a_message_makes_no_expectation(make_plan: MakePlan) -> None:
    routing = {
        "split": {"groq": 50, "openrouter": 50},
        "cost_allowance_usd": Decimal(5),
        "expected_messages": 300,
        "expected_cost_usd": {"openrouter": "0.01"},
    }

    found = economics_of(make_plan(routing=routing))

    assert (found.expected_cost_usd, found.expected_margin, found.profit(3)) == (None, None, (None, Decimal(15)))


def test_by_score_the_dearest_provider_counts(make_plan: MakePlan) -> None:
    routing = {
        "strategy": "score",
        "split": {},
        "cost_allowance_usd": Decimal(5),
        "expected_messages": 100,
        "expected_cost_usd": {"groq": "0", "openrouter": "0.02", "openai": "0.01"},
    }

    found = economics_of(make_plan(routing=routing))

    assert found.expected_cost_usd == Decimal(2)
    assert [share.provider for share in found.shares] == ["openrouter"]


def test_other_assumptions_can_be_tried(make_plan: MakePlan) -> None:
    plan = make_plan(routing={"cost_allowance_usd": Decimal(5)})

    found = economics_of(plan, assumptions=Assumptions(200, {"groq": Decimal("0.02")}))

    assert found.expected_cost_usd == Decimal(4)
    assert PlanRouting.objects.get().expected_messages is None


def test_free_models_alone_cost_nothing(make_plan: MakePlan) -> None:
    found = economics_of(make_plan(routing={"free_only": True}, usd="0"))

    assert (found.worst_cost_usd, found.expected_cost_usd, found.risks) == (0, 0, [])


def test_of_several_currencies_the_one_that_earns_least_counts(make_plan: MakePlan) -> None:
    FxRate.objects.create(base="USD", quote="DZD", rate=230, effective_from=LONG_AGO)
    plan = make_plan(routing={"cost_allowance_usd": Decimal(1)})
    PlanPrice.objects.create(plan=plan, currency="DZD", amount=1150, effective_from=LONG_AGO)

    found = economics_of(plan)

    assert (found.revenue_usd, str(found.price)) == (Decimal(5), "1150 DZD")


def test_prices_and_rates_count_from_their_instant_on(make_plan: MakePlan) -> None:
    plan = make_plan(routing={"cost_allowance_usd": Decimal(1)})
    PlanPrice.objects.create(plan=plan, currency="USD", amount=20, effective_from=datetime(2026, 12, 1, tzinfo=UTC))

    later = plan_economics(plan, at=datetime(2026, 12, 1, tzinfo=UTC))

    assert later is not None
    assert (economics_of(plan).revenue_usd, later.revenue_usd) == (Decimal(10), Decimal(20))


@pytest.mark.parametrize(
    ("plan", "routing", "usd", "risk"),
    [
        ({}, {}, "10", "Nothing bounds what a period may cost us"),
        ({}, {"cost_allowance_usd": Decimal("10.01")}, "10", "earns 10.00 USD and may cost 10.01 USD: its cost allowance"),
        ({}, {"cost_allowance_usd": Decimal(1)}, None, "What it earns in USD is not known"),
        # 10 USD for 2,000 credits that cost up to 0.01 / 1.8 each.
        (
            {"billing_mode": "credits", "period_credits": 2000},
            {},
            "10",
            "earns 10.00 USD and may cost 11.11 USD: what its 2,000 credits cover",
        ),
        ({"billing_mode": "credits"}, {"margin_multiplier": Decimal("0.9")}, "0", "A bought credit earned 0.01 USD and may"),
    ],
)
def test_ways_to_lose_money(
    make_plan: MakePlan, plan: dict[str, Any], routing: dict[str, Any], usd: str | None, risk: str
) -> None:
    CreditPack.objects.create(code="pack", name="Pack", credits=1000, amount=10)

    found = economics_of(make_plan(plan, routing, usd))

    [told] = found.risks
    assert risk in told


def test_an_allowance_equal_to_the_price_loses_nothing(make_plan: MakePlan) -> None:
    assert economics_of(make_plan(routing={"cost_allowance_usd": Decimal(10)})).can_lose_money is False


def test_a_missing_rate_hides_what_a_plan_earns(make_plan: MakePlan) -> None:
    plan = make_plan(routing={"cost_allowance_usd": Decimal(1)}, usd=None)
    PlanPrice.objects.create(plan=plan, currency="DZD", amount=1590, effective_from=LONG_AGO)

    assert (economics_of(plan).revenue_usd, economics_of(plan).can_lose_money) == (None, True)


def test_whole_credits_may_cost_half_as_much_again(make_plan: MakePlan) -> None:
    plan = {"billing_mode": "credits", "period_credits": 180}

    exact = economics_of(make_plan(plan))
    whole = economics_of(make_plan({**plan, "rounding": "whole"}))

    assert (exact.worst_cost_usd, whole.worst_cost_usd) == (Decimal(1), Decimal("1.5"))


def test_the_allowance_ends_before_the_credits(make_plan: MakePlan) -> None:
    plan = {"billing_mode": "credits", "period_credits": 1800}

    found = economics_of(make_plan(plan, {"cost_allowance_usd": Decimal(4)}))

    assert (found.worst_cost_usd, str(found.worst_because)) == (4, "its cost allowance, which ends before its credits do")


def test_a_models_own_margin_and_a_dear_profile_raise_what_a_credit_costs(make_plan: MakePlan) -> None:
    provider = Provider.objects.create(slug="p", name="P", protocol="openai", base_url="https://p.example/v1")
    cheap = AiModel.objects.create(name="sold-cheaply", margin_multiplier=Decimal("1.25"))
    dear = AiModel.objects.create(name="bought-dearly")
    ModelProfile.objects.create(slug="p/a", provider=provider, model=cheap, upstream_model="a")
    ModelProfile.objects.create(slug="p/b", provider=provider, model=dear, upstream_model="b", cost_factor=Decimal("1.5"))
    plan = {"billing_mode": "credits"}

    every = economics_of(make_plan(plan))
    only = economics_of(make_plan(plan, {"models_allowed": ["bought-dearly"], "margin_multiplier": Decimal(2)}))

    assert (every.credit_cost_usd, only.credit_cost_usd) == (Decimal("0.012"), Decimal("0.0075"))


def test_metered_credits_below_cost_lose_money(make_plan: MakePlan) -> None:
    plan = make_plan({"billing_mode": "metered", "overage_ceiling": 1000}, usd=None)
    PlanPrice.objects.create(plan=plan, currency="USD", amount=0, overage_amount=Decimal("0.005"), effective_from=LONG_AGO)

    [risk] = economics_of(plan).risks

    assert risk == "A credit beyond those included earns 0.005 USD and may cost 0.005556 USD."


def test_a_plan_without_routing_has_no_figures(db: None) -> None:
    plan = Plan.objects.create(code="x", family="x", name="X", billing_mode="quota")

    assert plan_economics(plan, at=AT) is None


def test_many_plans_take_as_many_queries_as_one(make_plan: MakePlan) -> None:
    plans = [make_plan() for _ in range(8)]

    def queries(count: int) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert len(plans_economics(plans[:count], at=AT)) == count
        return len(captured)

    assert queries(1) == queries(8) == 6


def test_assumptions_are_kept_once_with_an_event(make_plan: MakePlan) -> None:
    routing = make_plan().routing  # type: ignore[attr-defined]
    wanted = Assumptions(1343, {"openrouter": Decimal("0.01350"), "groq": Decimal(0)})

    assumptions_set(routing=routing, assumptions=wanted, actor=SYSTEM, reason="measured")
    assumptions_set(routing=routing, assumptions=wanted, actor=SYSTEM, reason="again")

    row = PlanRouting.objects.get()
    stored = {"expected_messages": 1343, "expected_cost_usd": {"groq": "0", "openrouter": "0.0135"}}
    assert (row.expected_messages, row.expected_cost_usd) == (1343, stored["expected_cost_usd"])
    event = Event.objects.get()
    assert (event.kind, event.reason, event.after) == ("plan_routing.assumptions_changed", "measured", stored)


def test_negative_costs_are_refused(make_plan: MakePlan) -> None:
    routing = make_plan().routing  # type: ignore[attr-defined]

    with pytest.raises(ApiError) as refusal:
        assumptions_set(routing=routing, assumptions=Assumptions(1, {"groq": Decimal(-1)}), actor=SYSTEM, reason="x")

    assert refusal.value.code == "invalid_request"
    assert not Event.objects.exists()


@pytest.mark.parametrize(("amount", "shown"), [("6.905", "6.91"), ("6.9049", "6.90"), ("-0.005", "-0.01")])
def test_cents_round_half_up(amount: str, shown: str) -> None:
    assert cents(Decimal(amount)) == Decimal(shown)


@pytest.mark.parametrize(("share", "shown"), [("0.605", 61), ("0.6049", 60), ("0.2372", 24), ("-0.111", -11)])
def test_percents_round_half_up(share: str, shown: int) -> None:
    assert percent(Decimal(share)) == shown
