"""What operators do in the console: grant, block, keys, catalogue edits, users."""

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from rest_framework_simplejwt.token_blacklist.models import BlacklistedToken

from billing.accounts.models import Account, ApiKey, User
from billing.accounts.services import api_key_create, session_begin, session_refresh
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.ledger.models import LedgerTransaction, Lot, Wallet
from billing.plans.models import FxRate, Plan, PlanPrice
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid7

from .conftest import PASSWORD


def grant_data(**changes: Any) -> dict[str, Any]:
    return {
        "amount": "12.5",
        "kind": "bonus",
        "expires_at_0": "",
        "expires_at_1": "",
        "reason": "goodwill",
        "grant_id": str(uuid7()),
        "_confirm": "Grant credits",
    } | changes


def grant_address(account: Account) -> str:
    return reverse("admin:billing_account_grant", args=[account.pk])


# --- Granting credits ---


def test_grant_asks_for_confirmation_before_it_grants(console: Client, account: Account) -> None:
    data = grant_data()
    del data["_confirm"]

    page = console.post(grant_address(account), data)

    assert page.status_code == 200
    assert 'name="_confirm"' in page.content.decode()
    assert data["grant_id"] in page.content.decode()
    assert Wallet.objects.get(pk=account.pk).balance == 100


def test_grant_writes_lot_books_and_event(console: Client, account: Account, operator: User) -> None:
    answer = console.post(grant_address(account), grant_data(), follow=True)

    lot = Lot.objects.get(wallet_id=account.pk, kind="bonus")
    assert (lot.amount, lot.remaining, lot.expires_at) == (Decimal("12.5"), Decimal("12.5"), None)
    assert Wallet.objects.get(pk=account.pk).balance == Decimal("112.5")
    booked = LedgerTransaction.objects.get(idempotency_key=f"grant:{lot.grant_key}")
    assert (booked.reason, booked.actor) == ("goodwill", "operator@example.com")
    event = Event.objects.get(object_type="lot", object_id=str(lot.pk))
    assert (event.kind, event.reason, event.actor_id) == ("credits.granted", "goodwill", operator.pk)
    page = answer.content.decode()
    assert "Granted 12.5 credits. The balance is now 112.5." in page
    assert reverse("admin:billing_lot_change", args=[lot.pk]) in page


def test_double_submit_grants_once(console: Client, account: Account) -> None:
    data = grant_data()
    console.post(grant_address(account), data)

    again = console.post(grant_address(account), data | {"amount": "500"}, follow=True)

    assert Wallet.objects.get(pk=account.pk).balance == Decimal("112.5")
    assert Lot.objects.filter(wallet_id=account.pk).count() == 2
    assert Event.objects.filter(kind="credits.granted", account_id=account.pk, actor_kind="operator").count() == 1
    assert "had granted 12.5 credits before; nothing was added" in again.content.decode()


def test_same_form_for_another_account_is_another_grant(console: Client, account: Account) -> None:
    data = grant_data()
    other = Account.objects.create(kind="organisation", name="Other")
    console.post(grant_address(account), data)

    console.post(grant_address(other), data)

    assert Wallet.objects.get(pk=other.pk).balance == Decimal("12.5")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount", "0"),
        ("amount", "-5"),
        ("amount", "1e30"),
        ("amount", "1000000000.000001"),
        ("amount", "0.0000001"),
        ("amount", "NaN"),
        ("amount", "Infinity"),
        ("amount", ""),
        ("amount", "ten"),
        ("kind", "overage"),
        ("reason", ""),
        ("reason", "x" * 201),
        ("expires_at_0", "2020-01-01"),
        ("expires_at_0", "tomorrow"),
        ("grant_id", ""),
        ("grant_id", "1"),
    ],
)
def test_grant_refuses_wrong_input(console: Client, account: Account, field: str, value: str) -> None:
    data = grant_data(**{"expires_at_1": "00:00:00" if field == "expires_at_0" else "", field: value})
    events = Event.objects.count()

    page = console.post(grant_address(account), data)

    assert page.status_code == 200
    assert page.context["form"].errors
    assert Wallet.objects.get(pk=account.pk).balance == 100
    assert (Lot.objects.filter(wallet_id=account.pk).count(), Event.objects.count()) == (1, events)


@pytest.mark.parametrize(("codename", "status", "lots"), [("change_account", 403, 1), ("add_lot", 302, 2)])
def test_grant_needs_its_own_permission(account: Account, codename: str, status: int, lots: int) -> None:
    clerk = User.objects.create_user("clerk@example.com", "x", is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename=codename))
    client = Client()
    client.force_login(clerk)

    answer = client.post(grant_address(account), grant_data())

    assert answer.status_code == status
    assert Lot.objects.filter(wallet_id=account.pk).count() == lots


def test_grant_action_takes_exactly_one_account(console: Client, account: Account) -> None:
    other = Account.objects.create(kind="organisation", name="Other")
    accounts = reverse("admin:billing_account_changelist")

    one = console.post(accounts, {"action": "grant_selected", "_selected_action": [account.pk]})
    two = console.post(accounts, {"action": "grant_selected", "_selected_action": [account.pk, other.pk]}, follow=True)

    assert one["location"] == grant_address(account)
    assert "Choose exactly one account" in two.content.decode()


# --- Accounts and keys ---


def test_block_and_unblock_keep_the_reason(console: Client, account: Account) -> None:
    console.post(reverse("admin:billing_account_block", args=[account.pk]), {"reason": "chargeback"})
    account.refresh_from_db()
    blocked = (account.status, account.status_reason)
    console.post(reverse("admin:billing_account_unblock", args=[account.pk]), {"reason": "paid"})
    account.refresh_from_db()

    assert blocked == ("blocked", "chargeback")
    assert account.status == "active"
    kinds = Event.objects.filter(kind__contains="blocked").order_by("at").values_list("kind", "reason", "actor_label")
    assert list(kinds) == [
        ("account.blocked", "chargeback", "operator@example.com"),
        ("account.unblocked", "paid", "operator@example.com"),
    ]


def test_block_without_reason_does_nothing(console: Client, account: Account) -> None:
    page = console.post(reverse("admin:billing_account_block", args=[account.pk]), {"reason": " "})

    account.refresh_from_db()
    assert page.status_code == 200
    assert account.status == "active"


def test_account_edit_writes_what_changed(console: Client, account: Account) -> None:
    target = reverse("admin:billing_account_change", args=[account.pk])
    data = {
        "name": "Sara B.",
        "billing_email": account.billing_email,
        "country": "DZ",
        "currency": "DZD",
        "language": "en",
        "time_zone": "Africa/Algiers",
        "overflow_allowed": "on",
        "external_id": "",
        "status": "closed",
        "limits-TOTAL_FORMS": "0",
        "limits-INITIAL_FORMS": "0",
    }

    answer = console.post(target, data)

    account.refresh_from_db()
    assert answer.status_code == 302
    assert (account.name, account.status, account.external_id) == ("Sara B.", "active", None)
    event = Event.objects.get(kind="account.edited")
    assert (event.before, event.after, event.account_id) == ({"name": "Sara"}, {"name": "Sara B."}, account.pk)


def test_account_edit_refuses_a_zone_that_does_not_exist(console: Client, account: Account) -> None:
    target = reverse("admin:billing_account_change", args=[account.pk])

    page = console.post(target, {"name": "Sara", "time_zone": "Mars/Olympus", "country": "DZ", "currency": "DZD"})

    assert page.status_code == 200
    assert "is not an IANA time zone" in page.content.decode()


def test_new_key_shows_its_secret_once(console: Client, account: Account) -> None:
    target = reverse("admin:billing_account_new_key", args=[account.pk])

    page = console.post(target, {"name": "service", "scopes": ["inference", "credits:write"]})

    key = ApiKey.objects.get(account=account)
    secret = page.context["secret"]
    assert secret in page.content.decode()
    assert "no-store" in page["cache-control"]
    assert key.scopes == ["inference", "credits:write"]
    later = [
        reverse("admin:billing_apikey_change", args=[key.pk]),
        reverse("admin:billing_apikey_changelist"),
        reverse("admin:billing_account_change", args=[account.pk]),
        reverse("admin:index"),
    ]
    pages = "".join(console.get(address).content.decode() for address in later)
    assert secret not in pages
    assert key.key_hash not in pages


def test_new_key_for_a_blocked_account_is_refused(console: Client, account: Account) -> None:
    console.post(reverse("admin:billing_account_block", args=[account.pk]), {"reason": "spam"})

    page = console.post(reverse("admin:billing_account_new_key", args=[account.pk]), {"name": "x", "scopes": ["inference"]})

    assert "The account is blocked" in page.content.decode()
    assert not ApiKey.objects.exists()


def test_keys_are_revoked_with_a_reason(console: Client, account: Account) -> None:
    key, _ = api_key_create(account=account, created_by=None, name="main", actor=SYSTEM)
    chosen = console.post(
        reverse("admin:billing_apikey_changelist"), {"action": "revoke_selected", "_selected_action": [key.pk]}
    )

    asked = console.get(chosen["location"])
    without = console.post(chosen["location"], {"reason": ""})
    key.refresh_from_db()
    still = key.revoked_at
    console.post(chosen["location"], {"reason": "leaked"})

    key.refresh_from_db()
    assert (asked.status_code, without.status_code, still) == (200, 200, None)
    assert key.revoked_at is not None
    assert Event.objects.get(kind="api_key.revoked").reason == "leaked"


# --- Catalogue ---


def test_plan_edit_writes_before_and_after(console: Client, free_plan: Plan) -> None:
    data = {
        "family": "chat",
        "name": "Free",
        "visibility": "public",
        "sort_order": "100",
        "interval": "day",
        "interval_count": "1",
        "renews": "on",
        "billing_mode": "quota",
        "rounding": "whole",
        "period_credits": "0",
        "daily_limit": "5",
        "priority": "0",
        "trial_days": "0",
        "features": "[]",
        "prices-TOTAL_FORMS": "0",
        "prices-INITIAL_FORMS": "0",
    }

    answer = console.post(reverse("admin:billing_plan_change", args=[free_plan.pk]), data)

    assert answer.status_code == 302
    event = Event.objects.get(kind="plan.edited")
    assert (event.before, event.after) == ({"daily_limit": "3.000000"}, {"daily_limit": "5"})
    assert event.actor_label == "operator@example.com"


def test_price_is_added_once_and_told(console: Client, free_plan: Plan) -> None:
    data = {
        "plan": free_plan.pk,
        "currency": "dzd",
        "amount": "1590",
        "tax_included": "on",
        "effective_from_0": "2026-01-01",
        "effective_from_1": "00:00:00",
    }
    target = reverse("admin:billing_planprice_add")

    first = console.post(target, data)
    again = console.post(target, data)
    wrong = console.post(target, data | {"currency": "D1", "amount": "-1"})

    assert (first.status_code, again.status_code, wrong.status_code) == (302, 200, 200)
    assert PlanPrice.objects.get().currency == "DZD"
    assert Event.objects.get(kind="plan_price.created").after["amount"] == "1590"


@pytest.mark.parametrize(("quote", "rate"), [("USD", "1"), ("DZD", "0"), ("DZD", "-1"), ("DZD", "NaN"), ("D", "230")])
def test_wrong_rate_is_refused(console: Client, quote: str, rate: str) -> None:
    data = {"base": "usd", "quote": quote, "rate": rate, "effective_from_0": "2026-01-01", "effective_from_1": "00:00"}

    page = console.post(reverse("admin:billing_fxrate_add"), data)

    assert page.status_code == 200
    assert not FxRate.objects.exists()


# --- Users ---


def test_new_user_is_a_whole_customer(console: Client, free_plan: Plan) -> None:
    data = {
        "email": "New@Example.com",
        "name": "New",
        "language": "fr",
        "password1": PASSWORD,
        "password2": PASSWORD,
        "usable_password": "true",
    }

    answer = console.post(reverse("admin:billing_user_add"), data)

    user = User.objects.get(email="new@example.com")
    assert answer["location"] == reverse("admin:billing_user_change", args=[user.pk])
    assert user.check_password(PASSWORD)
    assert user.personal_account.subscriptions.get().plan == free_plan
    assert Wallet.objects.filter(account=user.personal_account).exists()
    assert Event.objects.get(kind="user.registered").actor_label == "operator@example.com"


@pytest.mark.parametrize("changes", [{"email": "SARA@example.com"}, {"password1": "x", "password2": "x"}])
def test_new_user_with_wrong_input_is_refused(console: Client, account: Account, changes: dict[str, str]) -> None:
    data = {"email": "new@example.com", "language": "en", "password1": PASSWORD, "password2": PASSWORD} | changes

    page = console.post(reverse("admin:billing_user_add"), data)

    assert page.status_code == 200
    assert User.objects.count() == 2


def test_new_user_without_plans_is_told_why(console: Client) -> None:
    data = {"email": "new@example.com", "language": "en", "password1": PASSWORD, "password2": PASSWORD}

    page = console.post(reverse("admin:billing_user_add"), data, follow=True)

    assert "Registration opens when the plans are loaded." in page.content.decode()
    assert User.objects.count() == 1


def test_clerk_cannot_raise_rights(account: Account, operator: User) -> None:
    clerk = User.objects.create_user("clerk@example.com", "x", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["change_user", "view_user"]))
    client = Client()
    client.force_login(clerk)
    data = {"email": "clerk@example.com", "language": "en", "is_active": "on", "is_superuser": "on", "is_staff": "on"}

    client.post(reverse("admin:billing_user_change", args=[clerk.pk]), data)
    password = client.post(
        reverse("admin:auth_user_password_change", args=[operator.pk]),
        {"password1": PASSWORD + "!", "password2": PASSWORD + "!"},
    )

    clerk.refresh_from_db()
    operator.refresh_from_db()
    assert not clerk.is_superuser
    assert password.status_code == 403
    assert operator.check_password(PASSWORD)


def test_new_password_ends_sessions(console: Client, account: Account) -> None:
    user = account.personal_of
    session = session_begin(user=user)
    target = reverse("admin:auth_user_password_change", args=[user.pk])

    answer = console.post(
        target, {"password1": "another long horse", "password2": "another long horse", "usable_password": "true"}
    )

    user.refresh_from_db()
    assert answer.status_code == 302
    assert user.check_password("another long horse")
    assert BlacklistedToken.objects.filter(token__user=user).count() == 1
    with pytest.raises(ApiError, match="revoked"):
        session_refresh(refresh_token=session.refresh_token)
    assert Event.objects.get(kind="user.password_changed").account_id == account.pk
    assert "another long horse" not in str(list(Event.objects.values()))
