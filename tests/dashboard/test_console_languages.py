"""The console in the language its operator chose: words, direction, numbers, and nothing more asked of the database."""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation

from billing.accounts.models import Account, ApiKey, User
from billing.accounts.services import api_key_create
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.ledger.models import Lot, UsageRecord
from billing.ledger.sources import source_names
from billing.models import CreditPack, CustomerNotice, Payment, Plan
from dashboard.alerts.models import AlertRule
from dashboard.jobs.admin import rhythm_text
from dashboard.jobs.selectors import description_of
from dashboard.templatetags.console import duration, isolated

from .conftest import PASSWORD, call, grant, hold, inbound, outbound


@pytest.fixture(autouse=True)
def english_afterwards() -> Iterator[None]:
    """The language of a request stays with the thread that served it."""
    with translation.override("en"):
        yield


def speak(operator: User, language: str) -> None:
    User.objects.filter(pk=operator.pk).update(language=language)


def shown(console: Client, address: str) -> str:
    return console.get(address).content.decode()


def test_english_stays_when_nothing_was_chosen(console: Client) -> None:
    page = shown(console, "/admin/")

    assert '<html lang="en" dir="ltr"' in page
    assert "Provider cost" in page


def test_home_speaks_french(console: Client, operator: User) -> None:
    speak(operator, "fr")

    page = shown(console, "/admin/")

    assert '<html lang="fr" dir="ltr"' in page
    assert "Coût des fournisseurs" in page
    assert "Utilisation et argent" in page
    assert "Journal d’utilisation" in page
    assert "Provider cost" not in page


def test_home_speaks_arabic_from_right_to_left(console: Client, operator: User) -> None:
    speak(operator, "ar")

    page = shown(console, "/admin/")

    assert '<html lang="ar" dir="rtl"' in page
    assert "admin/css/rtl.css" in page
    assert "تكلفة المزوّدين" in page
    assert "الاستخدام والمال" in page


@pytest.mark.parametrize(
    ("language", "heading", "figure"),
    [("en", "Credits held", "1,234.5"), ("fr", "Crédits réservés", "1\u202f234,5"), ("ar", "الأرصدة المحجوزة", "1.234,5")],
)
def test_list_has_its_columns_and_numbers_in_the_language(
    console: Client, operator: User, account: Account, language: str, heading: str, figure: str
) -> None:
    speak(operator, language)
    grant(account, Decimal(2000))
    hold(account, credits=Decimal("1234.5"))

    page = shown(console, reverse("admin:billing_hold_changelist"))

    assert heading in page
    assert f'<span class="figure">{figure}</span>' in page


def test_names_of_models_and_fields_that_nobody_wrote_down_are_translated(
    console: Client, operator: User, account: Account
) -> None:
    speak(operator, "fr")

    page = shown(console, reverse("admin:billing_account_change", args=[account.pk]))

    assert "Motif du statut" in page
    assert "Dépassement permis" in page


def test_confirmation_asks_in_the_language(console: Client, operator: User, account: Account) -> None:
    speak(operator, "ar")

    page = shown(console, reverse("admin:billing_account_block", args=[account.pk]))

    assert "حظر هذا الحساب؟" in page
    assert "يتوقف كل مفتاح للحساب خلال ثانية. وتبقى الأرصدة والاشتراك." in page


def test_message_after_a_deed_is_in_the_language(console: Client, operator: User, account: Account) -> None:
    speak(operator, "fr")

    page = console.post(reverse("admin:billing_account_block", args=[account.pk]), {"reason": "abuse"}, follow=True)

    assert [str(message) for message in page.context["messages"]] == ["Le compte est bloqué."]


def test_jobs_say_what_they_do_in_the_language() -> None:
    with translation.override("fr"):
        said = description_of("billing.ledger.reap_holds")

    assert said == "Clore les réservations qui ont survécu à leur processus."


def test_language_asks_nothing_more_of_the_database(console: Client, operator: User, account: Account) -> None:
    call(account)
    address = reverse("admin:billing_usagerecord_changelist")
    shown(console, address)
    with CaptureQueriesContext(connection) as english:
        shown(console, address)

    speak(operator, "ar")
    with CaptureQueriesContext(connection) as arabic:
        shown(console, address)

    assert len(arabic) == len(english)


def test_choosing_keeps_it_with_the_operator_and_goes_back(console: Client, operator: User) -> None:
    answer = console.post(reverse("admin:language"), {"language": "fr", "next": "/admin/billing/account/?q=x"})

    assert answer["Location"] == "/admin/billing/account/?q=x"
    assert answer.cookies["django_language"].value == "fr"
    assert User.objects.get(pk=operator.pk).language == "fr"
    assert Event.objects.filter(kind="user.changed", actor_id=operator.pk).count() == 1


@pytest.mark.parametrize(
    "wanted", ["https://evil.example/admin/", "//evil.example/admin/", "/billing/", "/admin/../billing/", ""]
)
def test_choosing_leads_nowhere_but_the_console(console: Client, wanted: str) -> None:
    answer = console.post(reverse("admin:language"), {"language": "ar", "next": wanted})

    assert answer["Location"] == "/admin/"


def test_an_unknown_language_changes_nothing(console: Client, operator: User) -> None:
    answer = console.post(reverse("admin:language"), {"language": "xx", "next": "/admin/"})

    assert "django_language" not in answer.cookies
    assert User.objects.get(pk=operator.pk).language == "en"


def test_choosing_needs_the_forms_own_token(operator: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(operator)

    answer = browser.post(reverse("admin:language"), {"language": "fr", "next": "/admin/"})

    assert answer.status_code == 403
    assert User.objects.get(pk=operator.pk).language == "en"


def test_login_page_speaks_what_was_chosen_in_this_browser(db: None) -> None:
    browser = Client()
    browser.post(reverse("admin:language"), {"language": "ar", "next": "/admin/"})

    page = browser.get(reverse("admin:login")).content.decode()

    assert 'dir="rtl"' in page
    assert 'class="console-language"' in page


def test_who_has_given_only_a_password_changes_nothing_of_the_user(operator: User, settings: object) -> None:
    settings.OPERATOR_TWO_FACTOR = True  # type: ignore[attr-defined]
    browser = Client()
    browser.post(reverse("admin:login"), {"username": operator.email, "password": PASSWORD})

    browser.post(reverse("admin:language"), {"language": "fr", "next": "/admin/"})

    assert User.objects.get(pk=operator.pk).language == "en"


def test_numbers_of_programs_stay_as_they_are(console: Client, operator: User, account: Account) -> None:
    speak(operator, "fr")
    call(account)

    file = console.get(reverse("admin:table", args=["billing", "usagerecord", "csv"]))

    head, row = b"".join(file).decode("utf-8-sig").splitlines()[:2]
    assert head.startswith("id,")
    assert row.split(",")[head.split(",").index("credits_charged")] == f"{UsageRecord.objects.get().credits_charged:f}"


def test_states_kinds_and_shipped_names_of_lists_are_words_and_no_codes(
    console: Client, operator: User, account: Account
) -> None:
    AlertRule.objects.create(code="down", name="A provider is down", kind="provider_down")
    AlertRule.objects.create(code="mine", name="Les miens", kind="provider_down")
    key, _secret = api_key_create(account=account, created_by=None, name="notebook", actor=SYSTEM)
    ApiKey.objects.filter(pk=key.pk).update(revoked_at=key.created_at)
    speak(operator, "fr")

    keys = shown(console, reverse("admin:billing_apikey_changelist"))
    events = shown(console, reverse("admin:billing_event_changelist"))
    shipped = shown(console, reverse("admin:dashboard_alertrule_changelist"))

    assert '<span class="state state-revoked">révoquée</span>' in keys
    assert '<span title="api_key.created">Clé API : création</span>' in events
    assert "Un fournisseur est en panne" in shipped
    assert "Les miens" in shipped
    assert "A provider is down" not in shipped


def test_states_of_webhooks_are_told_in_their_first_words(console: Client, operator: User, account: Account) -> None:
    inbound(account, 1)
    outbound(account, 1)
    speak(operator, "fr")

    arrived = shown(console, reverse("admin:billing_gatewaywebhook_changelist"))
    sent = shown(console, reverse("admin:billing_webhookdelivery_changelist"))

    assert '<span class="state state-processed">Traité</span>' in arrived
    assert '<span class="state state-pending">En attente</span>' in sent


@pytest.mark.parametrize(
    ("language", "value", "told"),
    [("en", "2026-11-20", "2026-11-20"), ("ar", "2026-11-20", "\u20662026-11-20\u2069"), ("ar", "", "")],
)
def test_a_date_keeps_its_own_order_in_a_sentence_from_right_to_left(language: str, value: str, told: str) -> None:
    with translation.override(language):
        assert isolated(value) == told


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("en", ["Plan Credits Business", "Pack My own pack", "Granted by you@x.y", "Plan gone", "Gift of the house"]),
        ("fr", ["Offre Crédits Business", "Pack My own pack", "Attribués par you@x.y", "Plan gone", "Gift of the house"]),
    ],
)
def test_credits_are_named_after_the_plan_or_pack_they_came_from(db: None, language: str, told: list[str]) -> None:
    Plan.objects.create(code="credits-business", family="credits", name="Credits Business", interval=Plan.Interval.MONTH)
    CreditPack.objects.create(code="own-1", name="My own pack", credits=1, amount=1, currency="DZD")
    sources = ["Plan credits-business", "Pack own-1", "granted by you@x.y", "Plan gone", "Gift of the house"]

    with translation.override(language), CaptureQueriesContext(connection) as asked:
        names = source_names(sources)

    assert [names[source] for source in sources] == told
    assert len(asked) == 2


def lot_of(account: Account, source: str) -> None:
    Lot.objects.filter(wallet_id=account.pk).update(source=source)


@pytest.mark.parametrize(
    "page", ["billing_account_change", "billing_wallet_change", "billing_lot_changelist", "billing_lot_change"]
)
def test_pages_name_the_plan_that_credits_came_from(console: Client, account: Account, page: str) -> None:
    Plan.objects.create(code="credits-business", family="credits", name="Credits Business", interval=Plan.Interval.MONTH)
    lot_of(account, "Plan credits-business")
    arguments = {"billing_account_change": [account.pk], "billing_wallet_change": [account.pk]}
    arguments["billing_lot_change"] = [Lot.objects.get().pk]

    page_shown = shown(console, reverse(f"admin:{page}", args=arguments.get(page, [])))

    assert "Plan Credits Business" in page_shown
    assert "Plan credits-business" not in page_shown


def test_payments_are_listed_with_the_words_for_how_they_are_paid(console: Client, operator: User, account: Account) -> None:
    common = {"account": account, "purpose": "topup", "amount": 10, "currency": "DZD", "mode": "live"}
    Payment.objects.create(gateway="manual", method="bank_transfer", reference="P-1", **common)
    Payment.objects.create(gateway="chargily", method="edahabia", reference="P-2", **common)
    speak(operator, "fr")

    listed = shown(console, reverse("admin:billing_payment_changelist"))
    of_account = shown(console, reverse("admin:billing_account_change", args=[account.pk]))

    for page in (listed, of_account):
        assert "virement bancaire" in page
        assert "Chargily · carte EDAHABIA" in page
        assert "bank_transfer" not in page


def test_a_notice_says_its_level_in_words(console: Client, operator: User, account: Account) -> None:
    CustomerNotice.objects.create(account=account, kind="plan_ending", level="ending", key="x")
    speak(operator, "ar")

    listed = shown(console, reverse("admin:billing_customernotice_changelist"))
    of_account = shown(console, reverse("admin:billing_account_change", args=[account.pk]))

    assert "ينتهي قريبًا" in listed
    assert "ينتهي قريبًا" in of_account


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("en", ["840 ms", "1.5 sec", "3 sec", "5 min", "2 days"]),
        ("fr", ["840\u202fms", "1,5\u202fs", "3\u202fs", "5\u00a0min", "2\u202fj"]),
        ("ar", ["840 ملي ث", "1,5 ث", "3 ث", "5 د", "يومان"]),
    ],
)
def test_lengths_of_time_have_the_units_of_the_language(language: str, told: list[str]) -> None:
    with translation.override(language):
        spans = [rhythm_text(timedelta(seconds=seconds)) for seconds in (3, 300, 172_800)]

        assert [duration(840), duration(1500), *spans] == told
