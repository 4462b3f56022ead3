"""Every page of the console opens, for those who may; what is read-only is so; lists never ask more for more rows."""

import re
from collections.abc import Callable
from decimal import Decimal
from html import unescape

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.translation import override

from billing.events.services import SYSTEM
from billing.ledger.services import credits_grant
from billing.models import (
    Account,
    ApiKey,
    BooksVerification,
    CatalogRecord,
    DaySeal,
    Event,
    FxRate,
    Hold,
    LedgerAccount,
    LedgerEntry,
    LedgerTransaction,
    Lot,
    Plan,
    PlanPrice,
    StoredAnswer,
    Subscription,
    UsageRecord,
    User,
    Wallet,
)
from iafactory.common.admin import BoundedPaginator, arrow, in_order
from ratelimit.models import AbuseSignal
from routing.models import AiModel, ModelPrice, ModelProfile, Provider

from .conftest import SECRET, call, grant

MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)
ADDABLE = [
    model
    for model in MODELS
    if model._meta.label_lower
    in {
        "auth.group",
        "dashboard.alertrule",
        "dashboard.alerttarget",
        "billing.accountlimits",
        "billing.billingprofile",
        "billing.coupon",
        "billing.creditpack",
        "billing.dunningstep",
        "billing.fxrate",
        "billing.manualmethod",
        "billing.marketplaceplan",
        "billing.membership",
        "billing.plan",
        "billing.planprice",
        "billing.sellerprofile",
        "billing.serviceprice",
        "billing.taxrate",
        "billing.user",
        "ratelimit.networkblock",
        "routing.aimodel",
        "routing.budget",
        "routing.gatewaylimits",
        "routing.modelprice",
        "routing.modelprofile",
        "routing.planrouting",
        "routing.provider",
        "routing.providercredential",
    }
]
READ_ONLY = [ApiKey, CatalogRecord, Event, Hold, LedgerAccount, LedgerEntry, LedgerTransaction, Lot, Subscription, UsageRecord]
READ_ONLY += [AbuseSignal, Wallet, PlanPrice, FxRate, ModelPrice, StoredAnswer, DaySeal, BooksVerification]

Populate = Callable[[int, int], None]


def list_address(model: type[models.Model], query: str = "") -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist") + query


def address(model: type[models.Model], page: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


by_label = pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)


@by_label
def test_list_opens_when_empty(console: Client, model: type[models.Model]) -> None:
    assert console.get(list_address(model)).status_code == 200


@by_label
def test_pages_open_with_data(console: Client, populate: Populate, model: type[models.Model]) -> None:
    populate(1, 1)
    row = model._default_manager.first()

    lists = console.get(list_address(model))
    page = console.get(address(model, "change", row.pk))
    history = console.get(address(model, "history", row.pk))

    assert (lists.status_code, page.status_code, history.status_code) == (200, 200, 200)
    assert SECRET not in page.content.decode() + lists.content.decode()


@pytest.mark.parametrize("model", ADDABLE, ids=lambda model: model._meta.label)
def test_add_page_opens(console: Client, model: type[models.Model]) -> None:
    assert console.get(address(model, "add")).status_code == 200


@pytest.mark.parametrize("model", [m for m in MODELS if m not in ADDABLE], ids=lambda model: model._meta.label)
def test_nothing_is_added_by_hand(console: Client, model: type[models.Model]) -> None:
    before = model._default_manager.count()

    answer = console.post(address(model, "add"), {})

    assert answer.status_code == 403
    assert model._default_manager.count() == before


@pytest.mark.parametrize("model", READ_ONLY, ids=lambda model: model._meta.label)
def test_read_only_rows_refuse_change_and_deletion(console: Client, populate: Populate, model: type[models.Model]) -> None:
    populate(1, 1)
    row = model._default_manager.first()
    before = model._default_manager.filter(pk=row.pk).values().get()

    changed = console.post(address(model, "change", row.pk), {"amount": "1"})
    deleted = console.post(address(model, "delete", row.pk), {"post": "yes"})
    console.post(list_address(model), {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})

    assert (changed.status_code, deleted.status_code) == (403, 403)
    assert model._default_manager.filter(pk=row.pk).values().get() == before


@pytest.mark.parametrize("model", [Account, Plan, Provider, ModelProfile, AiModel], ids=lambda model: model.__name__)
def test_rows_with_history_refuse_deletion(console: Client, populate: Populate, model: type[models.Model]) -> None:
    populate(1, 1)
    row = model._default_manager.last()

    page = console.get(address(model, "change", row.pk))
    answer = console.post(address(model, "delete", row.pk), {"post": "yes"})

    assert address(model, "delete", row.pk) not in page.content.decode()
    assert answer.status_code == 403
    assert model._default_manager.filter(pk=row.pk).exists()


def test_user_with_account_refuses_deletion(console: Client, account: Account) -> None:
    answer = console.post(address(User, "delete", account.personal_of_id), {"post": "yes"})

    assert answer.status_code == 403
    assert User.objects.filter(pk=account.personal_of_id).exists()


def test_unused_plan_is_deleted_with_an_event(console: Client, free_plan: Plan) -> None:
    answer = console.post(address(Plan, "delete", free_plan.pk), {"post": "yes"})

    assert answer.status_code == 302
    assert not Plan.objects.exists()
    event = Event.objects.get(kind="plan.deleted")
    assert (event.before["code"], event.actor_label) == ("free", "operator@example.com")


def test_lists_cost_the_same_for_2_rows_and_50(console: Client, populate: Populate) -> None:
    def queries(model: type[models.Model]) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert console.get(list_address(model)).status_code == 200
        return len(captured)

    populate(1, 2)
    console.get(list_address(MODELS[0]))  # session and content types
    few = {model._meta.label: queries(model) for model in MODELS}
    populate(3, 50)
    many = {model._meta.label: queries(model) for model in MODELS}

    assert many == few


@pytest.mark.parametrize("term", ["019abcde-0000-7000-8000-000000000000", "sara@example.com", "it's 100% \\ odd", "…", "1e999"])
@by_label
def test_search_takes_any_text(console: Client, account: Account, model: type[models.Model], term: str) -> None:
    assert console.get(list_address(model), {"q": term}).status_code == 200


@by_label
def test_staff_without_rights_is_refused(db: None, model: type[models.Model]) -> None:
    client = Client()
    client.force_login(User.objects.create_user("clerk@example.com", "x", is_staff=True))

    assert client.get(list_address(model)).status_code == 403
    assert client.get(address(model, "add")).status_code == 403


@pytest.mark.parametrize("name", ["grant", "block", "unblock", "new_key"])
def test_staff_without_rights_has_no_buttons(account: Account, name: str) -> None:
    client = Client()
    client.force_login(User.objects.create_user("clerk@example.com", "x", is_staff=True))
    target = reverse(f"admin:billing_account_{name}", args=[account.pk])

    assert client.get(target).status_code == 403
    assert client.post(target, {"reason": "x", "name": "x", "scopes": ["inference"]}).status_code == 403
    account.refresh_from_db()
    assert account.status == "active"


@by_label
def test_strangers_go_to_the_login_page(db: None, model: type[models.Model]) -> None:
    answer = Client().get(list_address(model))

    assert answer.status_code == 302
    assert answer["location"].startswith(reverse("admin:login"))


def test_viewer_sees_but_cannot_edit(account: Account, free_plan: Plan) -> None:
    clerk = User.objects.create_user("clerk@example.com", "x", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["view_account", "view_plan"]))
    client = Client()
    client.force_login(clerk)

    assert client.get(address(Account, "change", account.pk)).status_code == 200
    assert client.post(address(Account, "change", account.pk), {"name": "X"}).status_code == 403
    assert client.post(address(Plan, "change", free_plan.pk), {"name": "X"}).status_code == 403


def test_found_by_what_an_operator_has_at_hand(console: Client, populate: Populate) -> None:
    populate(1, 2)
    key = ApiKey.objects.filter(account__name="C 2").get()
    usage = UsageRecord.objects.get(account=key.account)
    found = [
        list_address(Account, f"?q={key.prefix}"),
        list_address(Account, "?q=c2@example.com"),
        list_address(UsageRecord, f"?q={usage.pk}"),
        list_address(LedgerTransaction, f"?q={usage.pk}"),
        list_address(Hold, f"?account__id__exact={key.account_id}"),
        list_address(Lot, f"?wallet__account__id__exact={key.account_id}"),
        list_address(UsageRecord, f"?api_key__id__exact={key.pk}"),
    ]

    counts = [console.get(target).context["cl"].result_count for target in found]

    assert counts == [1, 1, 1, 1, 1, 1, 1]


def test_grant_found_by_its_idempotency_key(console: Client, account: Account) -> None:
    lot = Lot.objects.get(wallet_id=account.pk)

    answer = console.get(list_address(LedgerTransaction), {"q": lot.grant_key})

    assert answer.context["cl"].result_count == 1


def test_broken_link_finds_nothing(console: Client, account: Account) -> None:
    answer = console.get(list_address(Hold, "?account__id__exact=nonsense"))

    assert answer.status_code == 200
    assert answer.context["cl"].result_count == 0


def test_count_of_a_large_list_is_bounded(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedPaginator, "BOUND", 2)
    for number in range(4):
        AiModel.objects.create(name=f"model-{number}")

    with CaptureQueriesContext(connection) as captured:
        count = BoundedPaginator(AiModel.objects.all(), 50).count

    assert count == 2
    assert "LIMIT 2" in captured[0]["sql"]


def test_usage_page_explains_the_price(console: Client, account: Account) -> None:
    request_id = call(account)

    page = text_of(console.get(address(UsageRecord, "change", request_id)))

    assert "input 1,000 2.5 0.0025 output 500 10 0.005 sum 1,500 0.0075 list cost as booked 0.0075" in page
    assert "0.0075 USD × 1.8 ÷ 0.01 USD a credit = 1.35 credits" in page
    assert "at least 0.000001: 1.35 credits Charged: 1.35 credits" in page
    assert "0.0075 USD = 0.0075 × 1" in page
    assert "1.35 credits; held before: 2" in page
    assert "Purchase test 1.35 98.65" in page
    assert "balance before → after: 100 → 98.65 credits" in page.lower()
    assert "groq / llama-3.3-70b (groq/llama-3.3-70b), 2 attempts" in page
    assert "fallback, 2 attempts" in page


def test_usage_page_counts_one_attempt_as_one(console: Client, account: Account) -> None:
    request_id = call(account)
    UsageRecord.objects.filter(pk=request_id).update(attempts=1)

    assert "(groq/llama-3.3-70b), 1 attempt " in text_of(console.get(address(UsageRecord, "change", request_id))) + " "


def test_usage_page_says_why_in_the_operators_language(operator: User, console: Client, account: Account) -> None:
    request_id = call(account)
    UsageRecord.objects.filter(pk=request_id).update(choice={"left_out": {"other/m": "breaker open: overloaded"}})
    User.objects.filter(pk=operator.pk).update(language="fr")

    page = text_of(console.get(address(UsageRecord, "change", request_id)))

    assert "disjoncteur ouvert" in page
    assert "breaker open" not in page


def test_usage_page_tells_units_and_their_prices(console: Client, account: Account) -> None:
    request_id = call(account)
    row = UsageRecord.objects.get(pk=request_id)
    line = {"name": "per_image", "unit": "images", "count": "2", "per": 1, "usd": "0.00375"}
    price = {name: row.price[name] for name in ("margin_multiplier", "usd_per_credit", "rounding", "charged")}
    none = {"input_tokens": 0, "output_tokens": 0, "cache_read_tokens": 0, "reasoning_tokens": 0}
    UsageRecord.objects.filter(pk=request_id).update(units={"images": "2"}, price=price | {"unit_prices": [line]}, **none)

    page = text_of(console.get(address(UsageRecord, "change", request_id)))
    listed = text_of(console.get(address(UsageRecord, "changelist")))

    assert "images 2 0.00375 / 1 images 0.0075 sum 0 0.0075 list cost as booked 0.0075" in page
    assert "2 images × 0.00375 USD = 0.0075 USD" in page
    assert "2 images" in listed


def test_usage_page_survives_a_snapshot_it_does_not_know(console: Client, account: Account) -> None:
    request_id = call(account)
    UsageRecord.objects.filter(pk=request_id).update(price={"input_per_mtok": "n/a", "units": {"per_image": "0.04"}})

    assert "per_image" in text_of(console.get(address(UsageRecord, "change", request_id)))


def test_menu_has_every_model_once(console: Client) -> None:
    sections = console.get(reverse("admin:index")).context["app_list"]

    listed = [entry["model"] for section in sections for entry in section["models"] if entry["model"]]

    assert sorted(listed, key=lambda model: model._meta.label) == MODELS
    assert [section["name"] for section in sections[:2]] == ["Customers", "Usage and money"]


@pytest.mark.parametrize(("url", "shown"), [("http://127.0.0.1:9100", True), ("", False)])
def test_banner_tells_of_the_simulator(console: Client, settings: object, url: str, shown: bool) -> None:
    settings.SIMULATOR_URL = url

    assert ("simulator-banner" in console.get(reverse("admin:index")).content.decode()) is shown


def text_of(answer: object) -> str:
    """The words of a page, one blank apart."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())))


def test_a_section_of_the_path_lists_its_models(console: Client) -> None:
    page = console.get("/admin/billing/").content.decode()

    content = page[page.index('id="content-main"') :]
    assert 'href="/admin/billing/invoice/"' in content
    assert 'class="range"' not in content


def test_decimals_are_edited_without_added_zeros(console: Client, free_plan: Plan) -> None:
    page = console.get(f"/admin/billing/plan/{free_plan.pk}/change/").content.decode()

    assert 'name="daily_limit" value="3" ' in page


@pytest.mark.parametrize(
    ("language", "sign", "order"), [("en", "→", "2026-11-20"), ("fr", "→", "2026-11-20"), ("ar", "←", "\u20662026-11-20\u2069")]
)
def test_signs_and_dates_run_with_the_language(language: str, sign: str, order: str) -> None:
    with override(language):
        assert (arrow(), in_order("2026-11-20")) == (sign, order)


@pytest.mark.parametrize(("language", "name"), [("en", "Plan"), ("fr", "Offre")])
def test_a_form_is_called_by_the_name_of_its_thing(
    console: Client, operator: User, free_plan: Plan, language: str, name: str
) -> None:
    User.objects.filter(pk=operator.pk).update(language=language)

    page = console.get(f"/admin/billing/plan/{free_plan.pk}/change/").content.decode()

    assert f"<h1>{name}</h1>" in page
    assert f"<title>Free | {name} | " in page


@pytest.mark.parametrize(
    ("language", "amount", "in_short"), [("en", "1,234.5", "1,234.5"), ("fr", "1\u202f234,5", "1\u202f234,5")]
)
def test_decimals_are_read_as_the_language_writes_them_without_added_zeros(
    console: Client, operator: User, account: Account, language: str, amount: str, in_short: str
) -> None:
    User.objects.filter(pk=operator.pk).update(language=language)
    grant(account, Decimal("1234.5"))
    lot = Lot.objects.order_by("created_at").last()
    rate = FxRate.objects.create(base="USD", quote="DZD", rate=Decimal("230"), effective_from=lot.created_at)

    shown = console.get(address(FxRate, "change", rate.pk)).content.decode()
    money = unescape(console.get(address(Lot, "change", lot.pk)).content.decode())

    assert '<div class="readonly">230</div>' in shown
    assert amount in money
    assert f"{in_short}0" not in money


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("en", ("Accounts: view", "Payments: add", "Can void invoices")),
        ("fr", ("Comptes : voir", "peut annuler des factures")),
        ("ar", ("الحسابات: عرض", "إلغاء الفواتير")),
    ],
)
def test_permissions_are_told_in_the_operators_language(
    console: Client, operator: User, language: str, told: tuple[str, ...]
) -> None:
    User.objects.filter(pk=operator.pk).update(language=language)
    group = Group.objects.create(name="Own")

    page = unescape(console.get(address(Group, "change", group.pk)).content.decode())

    assert [words for words in told if words not in page] == []
    assert "Can view account" not in page


@pytest.mark.parametrize(("language", "told"), [("en", "Period begins"), ("fr", "Début de la période"), ("ar", "بداية الفترة")])
def test_the_products_own_reasons_are_read_in_the_operators_language(
    console: Client, operator: User, account: Account, language: str, told: str
) -> None:
    User.objects.filter(pk=operator.pk).update(language=language)
    credits_grant(
        account_id=account.pk,
        amount=Decimal(1),
        kind=Lot.Kind.PLAN,
        source="plan",
        reason="Period begins",
        actor=SYSTEM,
        idempotency_key="begins",
    )
    transaction = LedgerTransaction.objects.get(reason="Period begins")

    listed = console.get(list_address(LedgerTransaction)).content.decode()
    page = console.get(address(LedgerTransaction, "change", transaction.pk)).content.decode()

    assert told in listed
    assert told in page
