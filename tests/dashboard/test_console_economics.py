"""Plans in the console: what they earn and cost is shown, assumptions are tried and kept, and a loss takes a second yes."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from billing.accounts.models import User
from billing.events.models import Event
from billing.plans.models import FxRate, Plan, PlanPrice
from routing.models import AiModel, PlanRouting, Provider

pytestmark = pytest.mark.django_db

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def plan(db: None) -> Plan:
    """On sale for 1,590 DZD, which is 6.91 USD, with an allowance of 2.72 USD."""
    for slug in ("groq", "openrouter"):
        Provider.objects.create(slug=slug, name=slug, protocol="openai", base_url="https://api.example.com/v1")
    FxRate.objects.create(base="USD", quote="DZD", rate=230, effective_from=LONG_AGO)
    plan = Plan.objects.create(code="student", family="chat", name="Student", billing_mode="quota", visibility="public")
    PlanPrice.objects.create(plan=plan, currency="DZD", amount=1590, effective_from=LONG_AGO)
    PlanRouting.objects.create(
        plan=plan,
        strategy="split",
        split={"groq": 85, "openrouter": 15},
        models_allowed=["*"],
        cost_allowance_usd=Decimal("2.72"),
        expected_messages=1343,
        expected_cost_usd={"groq": "0", "openrouter": "0.0135"},
    )
    return plan


def plan_page(plan: Plan) -> str:
    return reverse("admin:billing_plan_change", args=[plan.pk])


def routing_page(plan: Plan) -> str:
    return reverse("admin:routing_planrouting_change", args=[plan.pk])


def economics_page(plan: Plan) -> str:
    return reverse("admin:billing_plan_economics", args=[plan.pk])


def plan_data(**changes: Any) -> dict[str, Any]:
    return {
        "family": "chat",
        "name": "Student",
        "visibility": "public",
        "sort_order": "100",
        "interval": "month",
        "interval_count": "1",
        "renews": "on",
        "billing_mode": "quota",
        "rounding": "whole",
        "period_credits": "0",
        "priority": "0",
        "trial_days": "0",
        "features": "[]",
        "prices-TOTAL_FORMS": "0",
        "prices-INITIAL_FORMS": "0",
    } | changes


def routing_data(**changes: Any) -> dict[str, Any]:
    return {
        "strategy": "split",
        "split": "groq 85\nopenrouter 15",
        "score_weights": "",
        "default_models": "",
        "models_allowed": "*",
        "fallback": "groq",
        "most_attempts": "4",
        "cost_allowance_usd": "2.72",
        "margin_multiplier": "1.8",
        "usd_per_credit": "0.01",
        "expected_messages": "1343",
        "expected_cost_usd": "groq 0\nopenrouter 0.0135",
    } | changes


def confirmed(answer: Any, reason: str) -> dict[str, str]:
    """What the browser sends when the operator says yes on the page `answer`."""
    return dict(answer.context["posted"]) | {"_loss_confirmed": "yes", "loss-reason": reason}


@pytest.mark.parametrize("page", [plan_page, routing_page, economics_page])
def test_the_figures_are_shown_with_what_they_come_from(console: Client, plan: Plan, page: Any) -> None:
    text = console.get(page(plan)).content.decode()

    for told in ("6.91 USD", "2.72 USD", "61 %", "1,590 DZD", "1 USD = 230 DZD", "85 % of the messages", "0.0135 USD", "1,343"):
        assert told in text


def test_assumptions_are_tried_without_being_kept(console: Client, plan: Plan) -> None:
    tried = {"users": "1000", "messages_a_month": "100", "cost_per_message": "groq 0\nopenrouter 0.1"}

    text = console.post(economics_page(plan), tried).content.decode()

    # 100 messages, 15 of them at 0.1 USD.
    assert "1.50 USD" in text
    assert "5,413.04 USD" in text
    assert PlanRouting.objects.get().expected_messages == 1343
    assert not Event.objects.exists()


def test_assumptions_are_kept_with_a_reason(console: Client, plan: Plan) -> None:
    wanted = {"users": "1", "messages_a_month": "900", "cost_per_message": "openrouter 0.02", "_keep": "yes"}

    without = console.post(economics_page(plan), wanted)
    before = PlanRouting.objects.get().expected_messages
    console.post(economics_page(plan), wanted | {"reason": "measured"})

    row = PlanRouting.objects.get()
    assert (without.status_code, before) == (200, 1343)
    assert (row.expected_messages, row.expected_cost_usd) == (900, {"openrouter": "0.02"})
    assert Event.objects.get().reason == "measured"


def test_an_unknown_provider_is_no_assumption(console: Client, plan: Plan) -> None:
    text = console.post(economics_page(plan), {"users": "1", "cost_per_message": "nobody 0.02"}).content.decode()

    assert "There is no provider nobody." in text


def test_a_harmless_edit_asks_nothing(console: Client, plan: Plan) -> None:
    answer = console.post(plan_page(plan), plan_data(name="Student plus"))

    assert (answer.status_code, Plan.objects.get().name) == (302, "Student plus")


def test_an_allowance_above_the_price_takes_a_second_yes_with_a_reason(console: Client, plan: Plan) -> None:
    asked = console.post(routing_page(plan), routing_data(cost_allowance_usd="7"))
    nothing_saved = PlanRouting.objects.get().cost_allowance_usd
    events_before = Event.objects.count()
    without_reason = console.post(routing_page(plan), confirmed(asked, ""))
    still_nothing = PlanRouting.objects.get().cost_allowance_usd
    done = console.post(routing_page(plan), confirmed(asked, "a campaign"))

    text = asked.content.decode()
    assert (asked.status_code, nothing_saved, events_before) == (200, Decimal("2.72"), 0)
    assert "A period earns 6.91 USD and may cost 7.00 USD: its cost allowance." in text
    assert (without_reason.status_code, still_nothing) == (200, Decimal("2.72"))
    assert (done.status_code, PlanRouting.objects.get().cost_allowance_usd) == (302, Decimal(7))
    event = Event.objects.get(kind="plan.risk_accepted")
    assert (event.object_id, event.reason, event.actor_label) == (str(plan.pk), "a campaign", "operator@example.com")
    assert event.after["worst_cost_usd"] == "7.000000000"
    assert Event.objects.filter(kind="plan_routing.edited").count() == 1


def test_what_was_accepted_is_not_asked_again_until_it_changes(console: Client, plan: Plan) -> None:
    PlanRouting.objects.update(cost_allowance_usd=7)

    renamed = console.post(plan_page(plan), plan_data(name="Student plus"))
    worse = console.post(routing_page(plan), routing_data(cost_allowance_usd="8"))

    assert (renamed.status_code, worse.status_code) == (302, 200)
    assert PlanRouting.objects.get().cost_allowance_usd == 7


def test_publishing_a_plan_that_can_lose_money_takes_a_second_yes(console: Client, plan: Plan) -> None:
    Plan.objects.update(visibility="hidden")
    hidden = console.post(routing_page(plan), routing_data(cost_allowance_usd=""))

    asked = console.post(plan_page(plan), plan_data())
    before = Plan.objects.get().visibility
    console.post(plan_page(plan), confirmed(asked, "on purpose"))

    assert hidden.status_code == 302
    assert "Nothing bounds what a period may cost us" in asked.content.decode()
    assert (before, Plan.objects.get().visibility) == ("hidden", "public")


def price_data(plan: Plan, amount: str, day: str = "2026-11-01") -> dict[str, Any]:
    when = {"effective_from_0": day, "effective_from_1": "00:00:00"}
    return {"plan": plan.pk, "currency": "DZD", "amount": amount, "tax_included": "on", **when}


@pytest.mark.parametrize("day", ["2026-02-01", "2999-01-01"])
def test_a_lower_price_is_asked_about_also_ahead_of_time(console: Client, plan: Plan, day: str) -> None:
    target = reverse("admin:billing_planprice_add")

    asked = console.post(target, price_data(plan, "600", day))
    before = PlanPrice.objects.count()
    console.post(target, confirmed(asked, "on purpose"))

    assert "A period earns 2.61 USD and may cost 2.72 USD" in asked.content.decode()
    assert (before, PlanPrice.objects.count()) == (1, 2)


def test_a_higher_price_asks_nothing(console: Client, plan: Plan) -> None:
    assert console.post(reverse("admin:billing_planprice_add"), price_data(plan, "2000", "2026-02-01")).status_code == 302


def test_a_rate_that_makes_a_plan_lose_is_asked_about(console: Client, plan: Plan) -> None:
    rate = {"base": "USD", "quote": "DZD", "rate": "600", "effective_from_0": "2026-02-01", "effective_from_1": "00:00:00"}

    asked = console.post(reverse("admin:billing_fxrate_add"), rate)

    assert "A period earns 2.65 USD and may cost 2.72 USD" in asked.content.decode()
    assert FxRate.objects.count() == 1


def test_a_models_margin_is_asked_about(console: Client, plan: Plan) -> None:
    Plan.objects.update(billing_mode="credits", period_credits=1000)
    PlanRouting.objects.update(cost_allowance_usd=None)
    model = AiModel.objects.create(name="m")
    data = {"name": "m", "mode": "chat", "aliases": "", "owner": "", "margin_multiplier": "1", "public": "on"}

    asked = console.post(reverse("admin:routing_aimodel_change", args=[model.pk]), data)

    assert "A period earns 6.91 USD and may cost 15.00 USD" in asked.content.decode()
    assert AiModel.objects.get().margin_multiplier is None


def test_the_list_names_plans_that_can_lose_money(console: Client, plan: Plan) -> None:
    page = reverse("admin:billing_plan_changelist")
    harmless = "state-failed" in console.get(page).content.decode()
    PlanRouting.objects.update(cost_allowance_usd=7)

    assert (harmless, "state-failed" in console.get(page).content.decode()) == (False, True)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("split", "nobody 5", "There is no provider nobody."),
        ("split", "groq", "is not a name and a value."),
        ("split", "groq 1.5", "is not a name and a value."),
        ("split", "groq 0", "The split strategy needs a weight above 0."),
        ("split", "groq 1\ngroq 2", "groq appears twice."),
        ("score_weights", "w9 1", "There is no weight w9."),
        ("expected_cost_usd", "groq -1", "is not a name and a value."),
        ("fallback", "groq,nobody", "There is no provider nobody."),
    ],
)
def test_wrong_lines_are_refused(console: Client, plan: Plan, field: str, value: str, told: str) -> None:
    text = console.post(routing_page(plan), routing_data(**{field: value})).content.decode()

    assert told in text
    assert PlanRouting.objects.get().split == {"groq": 85, "openrouter": 15}


def test_the_routing_form_writes_what_it_shows(console: Client, plan: Plan) -> None:
    data = routing_data(
        strategy="score",
        split="",
        score_weights="w1 1000\nw3 0.5",
        provider_pin_allowed="on",
        most_attempts="2",
        deadline_seconds="30",
        default_models="groq llama-3.3-70b",
    )

    answer = console.post(routing_page(plan), data)

    row = PlanRouting.objects.get()
    assert answer.status_code == 302
    assert (row.strategy, row.split, row.score_weights) == ("score", {}, {"w1": 1000, "w3": "0.5"})
    assert (row.provider_pin_allowed, row.most_attempts, row.deadline_seconds) == (True, 2, 30)
    assert row.default_models == {"groq": "llama-3.3-70b"}
    assert "expected_cost_usd" not in Event.objects.get(kind="plan_routing.edited").after


def test_who_may_only_look_keeps_nothing(plan: Plan) -> None:
    viewer = User.objects.create_user("viewer@example.com", "correct horse battery", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_plan"))
    client = Client()
    client.force_login(viewer)

    looked = client.get(economics_page(plan))
    kept = client.post(economics_page(plan), {"users": "1", "_keep": "yes", "reason": "x"})

    assert (looked.status_code, kept.status_code) == (200, 403)
    assert b"_keep" not in looked.content
