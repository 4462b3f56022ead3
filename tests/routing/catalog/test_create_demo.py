"""The demo accounts: made once, never reset."""

import json
from collections.abc import Callable
from decimal import Decimal
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing.accounts.models import Account, ApiKey, User
from billing.accounts.services import api_key_revoke
from billing.events.services import SYSTEM
from billing.ledger.models import Lot, Wallet
from billing.plans.models import Plan
from billing.subscriptions.models import Subscription
from billing.subscriptions.services import subscription_switch
from iafactory.common.crypto import secret_hash
from routing.catalog import catalog_load

SECRET = "iaf_demo-key-of-a-local-installation-0001"
PASSWORD = "an operator's pass phrase"

Demo = Callable[..., dict[str, str | None]]


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, db: None) -> Demo:
    """Runs the command with just these variables, on a loaded catalogue."""
    catalog_load()

    def run(**environment: str) -> dict[str, str | None]:
        for name in ("DEMO_ADMIN_EMAIL", "DEMO_ADMIN_PASSWORD", "DEMO_PASSWORD", "DEMO_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        output = StringIO()
        call_command("create_demo", "--json", stdout=output)
        return json.loads(output.getvalue())

    return run


def test_an_operator_and_a_customer_with_credits_and_a_key(demo: Demo) -> None:
    result = demo(DEMO_ADMIN_PASSWORD=PASSWORD, DEMO_API_KEY=SECRET)

    assert result == {
        "admin_email": "admin@iafactory.local",
        "admin_password": PASSWORD,
        "api_key": SECRET,
        "demo_email": "demo@iafactory.local",
        "demo_password": PASSWORD,
    }
    admin = User.objects.get(email="admin@iafactory.local")
    assert (admin.is_staff, admin.is_superuser, admin.is_active, admin.check_password(PASSWORD)) == (True,) * 4
    customer = User.objects.get(email="demo@iafactory.local")
    assert (customer.is_staff, customer.is_superuser, customer.email_verified_at is not None) == (False, False, True)
    account = customer.personal_account
    assert Subscription.objects.filter(account=account, state="active").values_list("plan__code", flat=True).get() == "payg"
    assert Wallet.objects.get(account=account).balance == Decimal(1000)
    assert Lot.objects.filter(wallet__account=account).values_list("kind", "source", "amount", "expires_at").get() == (
        "bonus",
        "Demo credits",
        Decimal(1000),
        None,
    )
    key = ApiKey.objects.get(account=account)
    assert (key.name, key.key_hash, key.scopes) == ("Demo key", secret_hash(SECRET), ["inference", "billing:read"])


def test_a_second_run_changes_nothing(demo: Demo) -> None:
    first = demo(DEMO_ADMIN_PASSWORD=PASSWORD, DEMO_API_KEY=SECRET)
    counted = [model.objects.count() for model in (User, Account, ApiKey, Lot, Subscription)]

    second = demo(DEMO_ADMIN_PASSWORD=PASSWORD, DEMO_API_KEY=SECRET)

    assert second == first
    assert [model.objects.count() for model in (User, Account, ApiKey, Lot, Subscription)] == counted
    assert ApiKey.objects.get().revoked_at is None
    assert Wallet.objects.get(account__personal_of__email="demo@iafactory.local").balance == Decimal(1000)


def test_what_is_not_given_is_generated_and_works(demo: Demo) -> None:
    result = demo(DEMO_ADMIN_EMAIL="Boss@Example.com")

    assert result["admin_email"] == "boss@example.com"
    assert User.objects.get(email="boss@example.com").check_password(result["admin_password"])
    assert User.objects.get(email="demo@iafactory.local").check_password(result["demo_password"])
    assert ApiKey.objects.get().key_hash == secret_hash(result["api_key"])


def test_a_password_changed_meanwhile_is_neither_reset_nor_shown(demo: Demo) -> None:
    demo(DEMO_ADMIN_PASSWORD=PASSWORD, DEMO_PASSWORD="a customer's pass phrase")
    admin = User.objects.get(email="admin@iafactory.local")
    admin.set_password("changed in the console")
    admin.save()

    result = demo(DEMO_ADMIN_PASSWORD=PASSWORD, DEMO_PASSWORD="a customer's pass phrase")

    assert (result["admin_password"], result["demo_password"]) == (None, "a customer's pass phrase")
    admin.refresh_from_db()
    assert admin.check_password("changed in the console")


def test_the_plan_an_operator_gave_the_demo_account_stays(demo: Demo) -> None:
    demo(DEMO_API_KEY=SECRET)
    account = Account.objects.get(personal_of__email="demo@iafactory.local")
    subscription_switch(account=account, plan=Plan.objects.get(code="pro"), actor=SYSTEM)

    demo(DEMO_API_KEY=SECRET)

    assert Subscription.objects.get(account=account, state="active").plan.code == "pro"


def test_without_a_known_key_a_new_one_replaces_the_unreadable_one(demo: Demo) -> None:
    first = demo()

    second = demo()

    assert second["api_key"] != first["api_key"]
    assert ApiKey.objects.get(revoked_at__isnull=True).key_hash == secret_hash(second["api_key"])
    assert ApiKey.objects.count() == 2


def test_a_revoked_key_is_not_revived(demo: Demo) -> None:
    demo(DEMO_API_KEY=SECRET)
    api_key_revoke(key=ApiKey.objects.get(), actor=SYSTEM)

    result = demo(DEMO_API_KEY=SECRET)

    assert result["api_key"] != SECRET
    assert ApiKey.objects.get(key_hash=secret_hash(SECRET)).revoked_at is not None
    assert ApiKey.objects.get(revoked_at__isnull=True).key_hash == secret_hash(result["api_key"])


def test_it_refuses_to_run_in_production(demo: Demo, settings: pytest.FixtureRequest) -> None:
    settings.PRODUCTION = True  # type: ignore[attr-defined]

    with pytest.raises(CommandError, match="no place in production"):
        demo()

    assert not User.objects.exists()


def test_a_weak_password_is_refused_and_leaves_nothing(demo: Demo) -> None:
    with pytest.raises(CommandError, match="too short"):
        demo(DEMO_ADMIN_PASSWORD="admin")

    assert not User.objects.exists()


@pytest.mark.django_db
def test_it_says_what_is_missing_before_the_catalogue_is_loaded() -> None:
    with pytest.raises(CommandError, match="Registration opens when the plans are loaded"):
        call_command("create_demo")

    assert not User.objects.exists()
