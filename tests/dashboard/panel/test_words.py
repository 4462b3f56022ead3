"""What pages say instead of codes, and where they say what a client needs."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils.translation import override

from billing.accounts.models import Account, User
from billing.accounts.services import api_key_create, user_actor
from billing.events.services import SYSTEM
from billing.invoices.models import BillingProfile
from billing.ledger.models import UsageRecord
from billing.payments.manual import manual_confirm
from billing.payments.models import Payment
from billing.payments.topup import hundred_credits_price, topup_draft
from billing.plans.models import CreditPack, FxRate, Plan
from dashboard.templatetags.panel import server_answer
from iafactory.common import clock
from iafactory.common.formats import country_text, currency_text, duration_text
from tests.dashboard.conftest import call

from .conftest import grant

Read = Callable[[str], str]


def included(page: str) -> list[str]:
    """What a page says that a plan includes."""
    [ticks] = re.findall(r'<ul class="ticks">(.*?)</ul>', page, re.DOTALL)
    return re.findall("<li>(.*?)</li>", ticks)


def test_the_base_url_stands_beside_the_keys_and_the_new_secret(panel: Client, text_of: Read, settings: Any) -> None:
    settings.PUBLIC_URL = "https://ia.example"

    listed = text_of("/billing/keys")
    made = panel.post("/billing/keys", {"name": "notebook"}).content.decode()

    assert '<code id="base-url" aria-labelledby="base-url-label">https://ia.example/v1</code>' in listed
    assert '<code id="base-url" aria-labelledby="base-url-label">https://ia.example/v1</code>' in made
    assert "curl https://ia.example/v1/chat/completions" in made
    assert 'client = OpenAI(base_url="https://ia.example/v1"' in made


def test_a_call_of_the_plan_is_told_as_its_requests_not_as_nothing(account: Account, text_of: Read) -> None:
    grant(account, 100)
    request_id = call(account, price=Decimal(0))
    UsageRecord.objects.filter(pk=request_id).update(quota_units=1, plan="free", provider="groq")

    page = text_of(f"/billing/usage/{request_id}")

    assert '<p class="figure">1 <span class="figure-unit">request of the plan</span></p>' in page
    assert "<dt>Provider</dt><dd>Groq</dd>" in page
    assert "<dt>Plan</dt><dd>Free</dd>" in page
    assert "840 ms" in page


def test_a_paid_call_is_told_in_credits_with_the_balances_around_it(account: Account, text_of: Read) -> None:
    grant(account, 100)
    request_id = call(account)

    page = text_of(f"/billing/usage/{request_id}")

    assert '<p class="figure">1.35 <span class="figure-unit">credits</span></p>' in page
    assert '<dt>Balance before</dt><dd class="number">100</dd>' in page
    assert '<dt>Balance after</dt><dd class="number">98.65</dd>' in page


def test_where_credits_came_from_is_called_by_its_name(account: Account, user: User, text_of: Read) -> None:
    User.objects.filter(pk=user.pk).update(language="fr")
    grant(account, 100, source="Plan credits-business")
    request_id = call(account)

    home, explained = text_of("/billing/"), text_of(f"/billing/usage/{request_id}")

    assert '<th scope="row">Offre Crédits Business</th>' in home
    assert "<dt>Offre Crédits Business</dt>" in explained


def test_a_key_says_what_it_may_do(account: Account, user: User, text_of: Read) -> None:
    key, _ = api_key_create(account=account, created_by=user, name="notebook", actor=user_actor(user))

    page = text_of(f"/billing/keys/{key.pk}")

    assert "<dt>Allowed</dt><dd>Call models · Read balance and usage</dd>" in page


def test_a_plan_says_what_it_includes_where_it_is_bought(text_of: Read) -> None:
    requests, credits = text_of("/billing/plans/pro"), text_of("/billing/plans/credits-starter")

    assert included(requests) == ["400 requests a day"]
    assert "Country: Algeria. Currency: Algerian dinars." in requests
    assert included(credits) == [
        "500 credits each period",
        "up to 100 credits a day",
        "Answers from your documents",
        "Legal assistant",
    ]


def test_a_plan_says_its_pace_its_trial_and_whether_it_renews(text_of: Read) -> None:
    Plan.objects.filter(code="pro").update(daily_limit=None, requests_per_minute=10, trial_days=7, renews=False)

    page = text_of("/billing/plans/pro")

    assert included(page) == [
        "Requests without a daily limit",
        "10 requests a minute",
        "7 days on trial",
        "Ends by itself: nothing renews",
    ]


START = '<a href="/billing/plans">Choose a plan, or buy credits</a>'


def test_who_has_neither_keys_nor_credits_is_told_three_steps(panel: Client, account: Account, text_of: Read) -> None:
    new = text_of("/billing/")
    grant(account, 100)
    with_credits = text_of("/billing/")
    panel.post("/billing/keys", {"name": "notebook"})
    with_key = text_of("/billing/")
    panel.post(f"/billing/keys/{account.api_keys.get().pk}/revoke")
    with_none_that_works = text_of("/billing/")

    assert ("Get started" in new, START in new) == (True, True)
    assert ("Get started" in with_credits, START in with_credits) == (True, False)
    assert ("Get started" in with_key, "Get started" in with_none_that_works) == (False, True)


def test_who_pays_for_a_plan_is_not_sent_to_choose_one(panel: Client, account: Account, text_of: Read) -> None:
    panel.post("/billing/plans/pro", {"way": "manual:ccp", "kind": "buy"})
    manual_confirm(payment=Payment.objects.get(account=account), actor=SYSTEM, reason="seen")

    page = text_of("/billing/")

    assert ("Get started" in page, START in page) == (True, False)


@pytest.mark.parametrize(
    ("language", "told"),
    [("en", "500 credits each period"), ("fr", "500 crédits par période"), ("ar", "500 رصيد في كل فترة")],
)
def test_counted_words_fit_their_number(user: User, text_of: Read, language: str, told: str) -> None:
    User.objects.filter(pk=user.pk).update(language=language)

    page = text_of("/billing/plans")

    assert f"<li>{told}</li>" in page


def test_a_hundred_credits_cost_what_the_cheapest_pack_asks(account: Account) -> None:
    CreditPack.objects.filter(code="credits-1000").update(bonus_credits=1000)
    now = clock.now()

    dollars = hundred_credits_price(currency="USD", at=now)
    dinars = hundred_credits_price(currency="DZD", at=now)
    nowhere = hundred_credits_price(currency="XAF", at=now)

    assert (dollars, dinars, nowhere) == (Decimal("0.50"), Decimal("115.00"), None)
    assert FxRate.objects.filter(quote="XAF").exists() is False


@pytest.mark.parametrize(("language", "told"), [("en", "1,000 credits"), ("fr", "1\u202f000 crédits"), ("ar", "1.000 رصيد")])
def test_a_pack_is_called_in_the_language_of_its_invoice(account: Account, language: str, told: str) -> None:
    BillingProfile.objects.create(account=account, name="Sara", country="DZ", language=language)

    draft = topup_draft(account=account, pack=CreditPack.objects.get(code="credits-1000"))

    assert draft.lines.get().description == told


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [(200, "", "200"), (None, "name_not_resolved", "No server has this name"), (500, "http_500", "500"), (None, None, "")],
)
def test_why_a_message_did_not_arrive_is_said_in_words(status: int | None, error: str | None, told: str) -> None:
    with override("en"):
        assert server_answer(status, error) == told


@pytest.mark.parametrize(
    ("language", "took"),
    [
        ("en", ("999 ms", "1 sec", "1.5 sec", "2.03 sec", "20 sec")),
        ("fr", ("999\u202fms", "1\u202fs", "1,5\u202fs", "2,03\u202fs", "20\u202fs")),
        ("ar", ("999 ملي ث", "1 ث", "1,5 ث", "2,03 ث", "20 ث")),
    ],
)
def test_how_long_something_took_is_written_by_the_language(language: str, took: tuple[str, ...]) -> None:
    with override(language):
        told = tuple(duration_text(milliseconds) for milliseconds in (999, 1000, 1500, 2031, 20_000))

    assert told == took


@pytest.mark.parametrize(
    ("language", "names"),
    [
        ("en", ("Algeria", "XX", "Algerian dinars")),
        ("fr", ("Algérie", "XX", "dinars algériens")),
        ("ar", ("الجزائر", "XX", "دينار جزائري")),
    ],
)
def test_countries_and_currencies_have_names(language: str, names: tuple[str, str, str]) -> None:
    with override(language):
        told = country_text("DZ"), country_text("XX"), currency_text("DZD")

    assert told == names
