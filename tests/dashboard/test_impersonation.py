"""An operator logs in as a customer: for a reason and a while, with few deeds, and with nobody's rights but the customer's."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse
from freezegun import freeze_time

from billing.accounts.models import Account, ApiKey, Invitation, Membership, User
from billing.accounts.services import api_key_create
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.payments.models import Payment, SavedCard
from billing.subscriptions.onboarding import customer_register
from billing.webhooks.models import WebhookEndpoint
from dashboard.impersonation.models import Impersonation
from dashboard.impersonation.permitted import PERMITTED
from dashboard.impersonation.services import impersonation_begin, impersonation_end, impersonations_expire
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid7
from tests.dashboard.panel.conftest import account, catalogue, user

from .conftest import PASSWORD

__all__ = ("account", "catalogue", "user")

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def owner(catalogue: None) -> User:
    """An operator with the role that may log in as customers."""
    operator = User.objects.create_user("operator@example.com", PASSWORD, is_staff=True)
    operator.groups.add(Group.objects.get(name="Owner"))
    return operator


@pytest.fixture
def browser(owner: User) -> Client:
    client = Client()
    client.force_login(owner)
    return client


def address(account: Account) -> str:
    return reverse("admin:billing_account_log_in_as", args=[account.pk])


def page_of(account: Account) -> str:
    return reverse("admin:billing_account_change", args=[account.pk])


def wish(user: User, **changes: Any) -> dict[str, Any]:
    return {"member": str(user.pk), "reason": "ticket 4711", "form_id": str(uuid7()), "_confirm": "1"} | changes


def text(response: Any) -> str:
    return str(response.content.decode())


# --- Beginning and ending ---


def test_the_page_says_what_will_happen_before_it_does(browser: Client, account: Account, user: User) -> None:
    data = wish(user)
    del data["_confirm"]

    asked = text(browser.post(address(account), data))

    assert "<dt>Customer</dt><dd>sara@example.com</dd>" in asked
    assert "30 minutes at most" in asked
    assert f'name="form_id" value="{data["form_id"]}"' in asked
    assert Impersonation.objects.count() == 0
    assert "sara@example.com" not in text(browser.get("/billing/"))


def test_it_begins_with_a_banner_and_ends_on_the_account_page(
    browser: Client, account: Account, user: User, owner: User
) -> None:
    with freeze_time(NOON, real_asyncio=True):
        begun = browser.post(address(account), wish(user))
    with freeze_time(NOON + timedelta(minutes=2), real_asyncio=True):
        seen = text(browser.get("/billing/"))
        ended = browser.post("/billing/as-customer/end")

    row = Impersonation.objects.get()
    assert begun["location"] == "/billing/"
    assert "You are <strong>sara@example.com</strong> of Sara, seen by the operator operator@example.com." in seen
    assert ended["location"] == page_of(account)
    assert (row.operator, row.user, row.account, row.reason) == (owner, user, account, "ticket 4711")
    assert (row.expires_at - row.began_at, row.ending) == (timedelta(minutes=30), "operator")
    began, over = Event.objects.filter(object_type="impersonation").order_by("at")
    assert (began.kind, began.actor_label, began.account_id, began.reason) == (
        *("impersonation.began", "operator@example.com", account.pk, "ticket 4711"),
    )
    assert began.after == {"user": "sara@example.com", "expires_at": "2026-11-20T12:30:00+00:00"}
    assert (over.kind, over.actor_kind, over.reason) == ("impersonation.ended", "operator", "ticket 4711")
    assert over.before == {"user": "sara@example.com", "expires_at": "2026-11-20T12:30:00+00:00"}
    assert over.after == {"ending": "operator", "ended_at": "2026-11-20T12:02:00+00:00", "seconds": 120}


PAGES = ("", "usage", "keys", "plans", "plans/pro", "credits", "payment-methods", "invoices", "subscription", "webhooks")


@pytest.mark.parametrize("page", [*PAGES, "webhooks/new", "team", "settings"])
def test_every_page_carries_the_banner(browser: Client, account: Account, user: User, page: str) -> None:
    browser.post(address(account), wish(user))

    shown = browser.get(f"/billing/{page}")

    assert shown.status_code == 200
    assert 'class="seen-as"' in text(shown)
    assert "/billing/as-customer/end" in text(shown)


def test_the_same_form_begins_once(browser: Client, account: Account, user: User) -> None:
    data = wish(user)

    answers = [browser.post(address(account), data)["location"] for _ in range(2)]

    assert answers == ["/billing/", "/billing/"]
    assert Impersonation.objects.count() == 1
    assert Event.objects.filter(kind="impersonation.began").count() == 1


def test_a_form_whose_login_has_ended_begins_nothing(browser: Client, account: Account, user: User) -> None:
    data = wish(user)
    browser.post(address(account), data)
    browser.post("/billing/as-customer/end")

    again = browser.post(address(account), data)

    assert again["location"] == page_of(account)
    assert 'class="seen-as"' not in text(browser.get("/billing/"))


def test_another_login_ends_the_one_before(browser: Client, account: Account, user: User) -> None:
    other = customer_register(email="omar@example.com", password=PASSWORD, name="Omar")
    browser.post(address(account), wish(user))

    browser.post(address(other.account), wish(other.user))

    endings = dict(Impersonation.objects.values_list("user__email", "ending"))
    assert endings == {"sara@example.com": "replaced", "omar@example.com": ""}
    assert "<strong>omar@example.com</strong>" in text(browser.get("/billing/"))


# --- The end of the time, of rights and of sessions ---


def test_after_30_minutes_the_panel_leads_back_and_the_end_is_on_record(browser: Client, account: Account, user: User) -> None:
    with freeze_time(NOON, real_asyncio=True):
        browser.post(address(account), wish(user))
    with freeze_time(NOON + timedelta(minutes=30) - timedelta(seconds=1), real_asyncio=True):
        still = browser.get("/billing/")
    with freeze_time(NOON + timedelta(minutes=30), real_asyncio=True):
        late = browser.get("/billing/")
        own = text(browser.get("/billing/"))

    row = Impersonation.objects.get()
    assert (still.status_code, late.status_code, late["location"]) == (200, 302, page_of(account))
    assert (row.ending, row.ended_at) == ("expired", NOON + timedelta(minutes=30))
    assert Event.objects.get(kind="impersonation.ended").after["seconds"] == 1800
    assert 'class="seen-as"' not in own


def test_a_piece_of_a_page_leads_the_whole_page_back(browser: Client, account: Account, user: User) -> None:
    with freeze_time(NOON, real_asyncio=True):
        browser.post(address(account), wish(user))
    with freeze_time(NOON + timedelta(minutes=31), real_asyncio=True):
        late = browser.get("/billing/usage", headers={"HX-Request": "true"})

    assert (late.status_code, late["HX-Redirect"]) == (204, page_of(account))


def test_what_no_browser_ends_a_task_ends(account: Account, user: User, owner: User) -> None:
    with freeze_time(NOON, real_asyncio=True):
        impersonation_begin(impersonation_id=uuid7(), operator=owner, user=user, account=account, reason="x")

    early = impersonations_expire(now=NOON + timedelta(minutes=29))
    ended = [impersonations_expire(now=NOON + timedelta(minutes=35)) for _ in range(2)]

    assert (early, ended) == (0, [1, 0])
    assert Event.objects.get(kind="impersonation.ended").after == {
        **{"ending": "expired", "ended_at": "2026-11-20T12:30:00+00:00", "seconds": 1800},
    }


def test_it_ends_with_the_operators_session(browser: Client, account: Account, user: User) -> None:
    browser.post(address(account), wish(user))

    browser.post(reverse("admin:logout"))

    assert Impersonation.objects.get().ending == "signed_out"
    assert browser.get("/billing/")["location"].startswith("/billing/sign-in")


def test_signing_out_of_the_panel_only_leaves_the_customer(browser: Client, account: Account, user: User) -> None:
    browser.post(address(account), wish(user))

    left = browser.post("/billing/sign-out")

    assert left["location"] == page_of(account)
    assert browser.get(reverse("admin:index")).status_code == 200


@pytest.mark.parametrize("lost", ["right", "office", "membership", "customer_off", "customer_operates"])
def test_it_ends_with_the_rights_it_stands_on(browser: Client, account: Account, user: User, owner: User, lost: str) -> None:
    browser.post(address(account), wish(user))
    takings: dict[str, Any] = {
        "right": lambda: owner.groups.clear(),
        "office": lambda: User.objects.filter(pk=owner.pk).update(is_staff=False),
        "membership": lambda: Membership.objects.filter(user=user).delete(),
        "customer_off": lambda: User.objects.filter(pk=user.pk).update(is_active=False),
        "customer_operates": lambda: User.objects.filter(pk=user.pk).update(is_staff=True),
    }
    takings[lost]()

    answer = browser.get("/billing/")

    assert (answer.status_code, answer["location"]) == (302, page_of(account))
    assert Impersonation.objects.get().ending == "withdrawn"


def test_it_ends_with_the_proof_of_the_second_factor(browser: Client, account: Account, user: User, settings: Any) -> None:
    browser.post(address(account), wish(user))
    settings.OPERATOR_TWO_FACTOR = True

    answer = browser.get("/billing/")

    assert (answer.status_code, answer["location"]) == (302, page_of(account))
    assert Impersonation.objects.get().ending == "withdrawn"


def test_what_ended_elsewhere_leads_back_once(browser: Client, account: Account, user: User) -> None:
    browser.post(address(account), wish(user))
    impersonation_end(impersonation=Impersonation.objects.get(), ending="replaced")

    back, own = browser.get("/billing/"), browser.get("/billing/")

    assert (back.status_code, back["location"]) == (302, page_of(account))
    # Then the panel is the operator's own again.
    assert own.get("location") != page_of(account)


def test_somebody_elses_login_is_worth_nothing_in_another_session(account: Account, user: User, owner: User) -> None:
    begun = impersonation_begin(impersonation_id=uuid7(), operator=owner, user=user, account=account, reason="x")
    thief = Client()
    thief.force_login(User.objects.create_superuser("thief@example.com", PASSWORD))
    session = thief.session
    session["impersonation"] = str(begun.pk)
    session.save()

    answer = thief.get("/billing/")

    begun.refresh_from_db()
    assert (answer.status_code, answer["location"]) == (302, reverse("admin:index"))
    assert begun.ended_at is None


# --- Who may, and as whom ---


@pytest.mark.parametrize(("role", "status"), [("Owner", 302), ("Finance", 403), ("Support", 403), ("Read-only", 403)])
def test_only_owners_may(account: Account, user: User, role: str, status: int) -> None:
    operator = User.objects.create_user("clerk@example.com", PASSWORD, is_staff=True)
    operator.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(operator)

    button = "log-in-as" in text(client.get(page_of(account)))
    answer = client.post(address(account), wish(user))

    assert (button, answer.status_code) == (status == 302, status)
    assert Impersonation.objects.count() == int(status == 302)


def test_a_customer_begins_nothing(account: Account, user: User) -> None:
    client = Client()
    client.force_login(user)

    answer = client.post(address(account), wish(user))

    assert answer.status_code == 302
    assert answer["location"].startswith("/admin/login/")
    assert Impersonation.objects.count() == 0


@pytest.mark.parametrize("change", [{"is_staff": True}, {"is_superuser": True}, {"is_active": False}])
def test_nobody_is_seen_who_operates_or_is_switched_off(
    browser: Client, account: Account, user: User, owner: User, change: dict[str, bool]
) -> None:
    User.objects.filter(pk=user.pk).update(**change)

    asked = browser.post(address(account), wish(user))
    with pytest.raises(ApiError) as refused:
        impersonation_begin(impersonation_id=uuid7(), operator=owner, user=user, account=account, reason="x")

    assert asked["location"] == page_of(account)
    assert refused.value.code == ("user_inactive" if "is_active" in change else "permission_denied")
    assert Impersonation.objects.count() == 0


def test_nobody_is_seen_in_an_account_that_is_not_theirs(browser: Client, account: Account, owner: User) -> None:
    other = customer_register(email="omar@example.com", password=PASSWORD, name="Omar")

    asked = browser.post(address(account), wish(other.user))
    with pytest.raises(ApiError) as refused:
        impersonation_begin(impersonation_id=uuid7(), operator=owner, user=other.user, account=account, reason="x")

    assert asked.status_code == 200
    assert refused.value.code == "account_not_found"
    assert Impersonation.objects.count() == 0


# --- Rights stay apart ---


def test_the_console_stays_the_operators_and_the_panel_is_the_customers(
    browser: Client, account: Account, user: User, owner: User
) -> None:
    before = user.last_login
    browser.post(address(account), wish(user))

    console = browser.get(reverse("admin:index"))
    panel = browser.get("/billing/settings")

    user.refresh_from_db()
    assert (console.status_code, console.context["user"].email) == (200, "operator@example.com")
    assert (panel.context["user"].email, panel.context["user"].is_staff) == ("sara@example.com", False)
    assert (panel.context["account"]["id"], user.last_login) == (str(account.pk), before)


def test_only_the_account_it_was_begun_on_is_seen(browser: Client, account: Account, user: User) -> None:
    team = Account.objects.create(kind="organisation", name="Other team")
    Membership.objects.create(account=team, user=user, role="owner")
    browser.post(address(account), wish(user))

    home = text(browser.get("/billing/"))
    switched = browser.post("/billing/account", {"account": str(team.pk)})

    assert "Other team" not in home
    assert switched.status_code == 403
    assert "Other team" not in text(browser.get("/billing/"))


# --- What may and may not be done ---


def test_what_is_changed_names_the_operator_for_the_customer(
    browser: Client, account: Account, user: User, owner: User
) -> None:
    browser.post(address(account), wish(user))

    browser.post("/billing/settings", {"form": "user", "name": "Sara B.", "language": "en"})

    user.refresh_from_db()
    told = Event.objects.get(object_type="user", kind__contains="chang", account_id=account.pk)
    assert user.name == "Sara B."
    assert (told.actor_kind, told.actor_id, told.actor_label) == ("operator", owner.pk, "operator@example.com")
    assert (told.on_behalf_of_id, told.on_behalf_of_label) == (user.pk, "sara@example.com")
    shown = text(browser.get(page_of(account)))
    assert "operator@example.com for sara@example.com" in shown


def test_the_customers_own_deeds_name_nobody_else(account: Account, user: User) -> None:
    client = Client()
    client.force_login(user)

    client.post("/billing/settings", {"form": "user", "name": "Sara B.", "language": "en"})

    told = Event.objects.get(object_type="user", kind__contains="chang", account_id=account.pk)
    assert (told.actor_kind, told.actor_label, told.on_behalf_of_id, told.on_behalf_of_label) == (
        *("user", "sara@example.com", None, ""),
    )


FORBIDDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "password": ("settings", {"form": "password", "password": PASSWORD, "new_password": "another horse battery"}),
    "new key": ("keys", {"name": "spare"}),
    "rotate key": ("keys/{key}/rotate", {}),
    "webhook with a secret": ("webhooks/new", {"url": "https://hooks.example.com/x", "event_types": ["key.created"]}),
    "webhook elsewhere": ("webhooks/{endpoint}", {"url": "https://evil.example.com/x", "event_types": ["key.created"]}),
    "webhook secret": ("webhooks/{endpoint}/do/rotate", {}),
    "webhook gone": ("webhooks/{endpoint}/do/delete", {}),
    "remove member": ("team/{user}/remove", {}),
    "make member": ("team/{user}/member", {}),
    "team account": ("team/new", {"name": "Mine"}),
    "remove card": ("payment-methods/{card}/remove", {}),
    "automatic renewal": ("payment-methods/auto-renewal", {"on": "1", "agreed": "on"}),
    "buy a plan": ("plans/pro", {"gateway": "manual", "method": "ccp"}),
    "buy credits": ("credits/credits-1000", {"gateway": "manual", "method": "ccp"}),
    "call models": ("playground/token", {}),
    "language": ("language", {"language": "fr"}),
    "sign in as somebody": ("sign-in", {"email": "sara@example.com", "password": PASSWORD}),
    "sign up": ("sign-up", {"email": "new@example.com", "password": PASSWORD, "name": "New"}),
    "another account": ("account", {"account": "{account}"}),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_is_forbidden_does_nothing(browser: Client, account: Account, user: User, owner: User, name: str) -> None:
    key, _ = api_key_create(account=account, created_by=user, name="notebook", actor=SYSTEM)
    endpoint = WebhookEndpoint.objects.create(
        account=account, url="https://hooks.example.com/1", event_types=["key.created"], secret="whsec_x"
    )
    card = SavedCard.objects.create(
        **{"account": account, "gateway": "stripe", "mode": "test", "gateway_customer_id": "c", "gateway_card_id": "p"},
        **{"brand": "visa", "last4": "4242", "saved_at": NOON},
    )
    ids = {"key": key.pk, "endpoint": endpoint.pk, "user": user.pk, "card": card.pk, "account": account.pk}
    path, data = FORBIDDEN[name]
    browser.post(address(account), wish(user))
    password, events = user.password, Event.objects.count()

    answer = browser.post(f"/billing/{path.format(**ids)}", data, follow=True)

    user.refresh_from_db()
    card.refresh_from_db()
    endpoint.refresh_from_db()
    assert "may not do this" in text(answer)
    assert (Event.objects.count(), user.password, user.language) == (events, password, "en")
    assert (ApiKey.objects.count(), Payment.objects.count(), WebhookEndpoint.objects.count()) == (1, 0, 1)
    assert (endpoint.url, card.removed_at, Account.objects.count()) == ("https://hooks.example.com/1", None, 1)
    assert (Membership.objects.count(), browser.session["_auth_user_id"]) == (1, str(owner.pk))


def test_nobody_is_invited_in_their_name(browser: Client, account: Account, user: User) -> None:
    team = Account.objects.create(kind="organisation", name="Team")
    Membership.objects.create(account=team, user=user, role="owner")
    browser.post(address(team), wish(user))

    answer = browser.post("/billing/team", {"email": "thief@example.com", "role": "owner"})

    assert "may not do this" in text(answer)
    assert Invitation.objects.count() == 0


def test_the_playground_is_not_opened_in_their_name(browser: Client, account: Account, user: User) -> None:
    browser.post(address(account), wish(user))

    page = browser.get("/billing/playground")

    assert page.status_code == 403
    assert 'class="seen-as"' in text(page)


def test_a_key_can_be_revoked_in_their_name(browser: Client, account: Account, user: User) -> None:
    key, _ = api_key_create(account=account, created_by=user, name="leaked", actor=SYSTEM)
    browser.post(address(account), wish(user))

    browser.post(f"/billing/keys/{key.pk}/revoke")

    told = Event.objects.get(kind="api_key.revoked")
    assert (told.actor_label, told.on_behalf_of_label) == ("operator@example.com", "sara@example.com")


def test_nothing_that_is_permitted_shows_secrets_moves_money_or_members() -> None:
    words = ("password", "rotate", "secret", "member", "invitation", "card", "method", "subscribe", "topup", "order", "auto")

    found = {name for _method, name in PERMITTED if any(word in name for word in words)}

    assert found == set()
    assert ("POST", "keys") not in PERMITTED


def test_ending_it_twice_is_told_once(account: Account, user: User, owner: User) -> None:
    begun = impersonation_begin(impersonation_id=uuid7(), operator=owner, user=user, account=account, reason="x")

    ended = [impersonation_end(impersonation=begun, ending="operator") for _ in range(2)]

    assert ended == [True, False]
    assert Event.objects.filter(kind="impersonation.ended").count() == 1
