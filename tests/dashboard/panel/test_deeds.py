"""What customers do in the panel: keys, purchases, teams, settings. Each deed is the API's."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.core import mail
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db.models import F
from django.test import Client
from freezegun import freeze_time

from billing.accounts import members, preferences
from billing.accounts.models import Account, ApiKey, Invitation, User
from billing.accounts.selectors import api_key_by_secret
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.invoices.lines import LineItem
from billing.invoices.models import BillingProfile, Invoice
from billing.invoices.services import invoice_draft, invoice_finalise
from billing.payments.auto_renewal import consent_in_force
from billing.payments.models import Payment, SavedCard
from billing.plans.models import Coupon
from billing.subscriptions.onboarding import customer_register
from iafactory.common import clock
from iafactory.common.errors import ApiError

from .conftest import PASSWORD, browser_of, grant

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 32


def text(response: Any) -> str:
    return str(response.content.decode())


# --- keys ---


def test_a_key_is_shown_once_and_works(panel: Client, account: Account) -> None:
    made = text(panel.post("/billing/keys", {"name": "notebook"}))

    [secret] = re.findall(r"data-secret>(iaf_[\w-]+)<", made)
    key = api_key_by_secret(secret)
    assert key is not None
    assert (key.account, key.name, key.scopes) == (account, "notebook", ["inference", "billing:read"])
    assert secret not in text(panel.get("/billing/keys")) + text(panel.get(f"/billing/keys/{key.pk}"))


def test_a_keys_limits_are_set_and_wrong_ones_named_beside_their_field(panel: Client, account: Account, user: User) -> None:
    panel.post("/billing/keys", {"name": "notebook"})
    key = account.api_keys.get()
    wanted = {"name": "laptop", "monthly_credits": "50.5", "allowed_networks": "10.0.0.0/8\n192.0.2.1"}

    saved = panel.post(f"/billing/keys/{key.pk}", wanted)
    wrong = panel.post(f"/billing/keys/{key.pk}", wanted | {"allowed_networks": "nonsense"})

    key.refresh_from_db()
    assert saved.headers["Location"] == f"/billing/keys/{key.pk}"
    assert (key.name, key.monthly_credits, key.allowed_networks) == ("laptop", Decimal("50.5"), ["10.0.0.0/8", "192.0.2.1"])
    assert wrong.status_code == 400
    assert "nonsense is not a network." in text(wrong)


def test_a_key_is_replaced_and_revoked(panel: Client, account: Account) -> None:
    panel.post("/billing/keys", {"name": "notebook"})
    old = account.api_keys.get()

    replaced = panel.post(f"/billing/keys/{old.pk}/rotate", {"at_once": "1"})
    old.refresh_from_db()
    revoked = panel.post(f"/billing/keys/{old.replaced_by_id}/revoke")

    assert "iaf_" in text(replaced)
    assert old.expires_at is not None
    assert revoked.headers["Location"] == "/billing/keys"
    assert ApiKey.objects.get(pk=old.replaced_by_id).revoked_at is not None


# --- purchases ---


def test_a_plans_quote_is_its_invoice_and_leaves_nothing(panel: Client, account: Account) -> None:
    page = text(panel.get("/billing/plans/pro?way=manual:ccp"))

    assert 'data-figure="due">DZD\xa02,590<' in page
    assert Invoice.objects.count() == 0
    assert account.subscriptions.count() == 1
    assert Event.objects.filter(kind="subscription.checkout_began").count() == 0


def test_cash_costs_stamp_duty_before_it_is_bought(panel: Client) -> None:
    page = text(panel.get("/billing/plans/pro?way=manual:cash"))

    assert "Stamp duty (cash)" in page
    assert 'data-figure="due">DZD\xa02,616<' in page


def test_a_coupon_is_taken_off_and_an_unknown_one_said(panel: Client) -> None:
    Coupon.objects.create(code="HALF", name="Half", kind="percent", percent=50)

    taken = text(panel.get("/billing/plans/pro?coupon=half"))
    unknown = text(panel.get("/billing/plans/pro?coupon=nothing"))

    assert 'data-figure="due">DZD\xa01,295<' in taken
    assert "There is no such coupon." in unknown
    assert 'data-figure="due">DZD\xa02,590<' in unknown


def test_the_same_form_sent_twice_buys_once(panel: Client, account: Account) -> None:
    form = {"way": "manual:ccp", "kind": "buy", "attempt": "a1b2c3"}

    first = panel.post("/billing/plans/pro", form)
    second = panel.post("/billing/plans/pro", form)

    payment = Payment.objects.get(account=account)
    assert first.headers["Location"] == second.headers["Location"] == f"/billing/payments/{payment.reference}"
    assert (payment.amount, payment.currency, payment.method) == (Decimal(2590), "DZD", "ccp")


def test_a_proof_is_sent_and_only_pictures_and_pdfs_are_taken(panel: Client, account: Account) -> None:
    panel.post("/billing/credits/credits-500", {"way": "manual:bank_transfer"})
    payment = Payment.objects.get(account=account)
    address = f"/billing/payments/{payment.reference}"

    script = panel.post(address, {"content": SimpleUploadedFile("proof.png", b"<script>")})
    proof = panel.post(address, {"content": SimpleUploadedFile("proof.png", PNG), "customer_reference": "VIR-7"})

    payment.refresh_from_db()
    assert (script.status_code, "A proof is a PNG, a JPEG or a PDF." in text(script)) == (400, True)
    assert proof.headers["Location"] == address
    assert (bytes(payment.proofs.get().content), payment.customer_reference) == (PNG, "VIR-7")


@pytest.mark.parametrize("asked_by", ["a browser", "the page itself"])
@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        ("succeeded", [("button button-main", "/billing/"), ("button", "/billing/invoices")]),
        ("failed", [("button", "/billing/plans"), ("button", "/billing/credits")]),
        ("expired", [("button", "/billing/plans"), ("button", "/billing/credits")]),
        ("canceled", [("button", "/billing/plans"), ("button", "/billing/credits")]),
        ("review", []),
        ("pending", [("button button-main", "https://pay.example/c/1")]),
        ("created", []),
    ],
)
def test_a_payments_page_leads_on_from_each_state(
    panel: Client, account: Account, state: str, buttons: list[tuple[str, str]], asked_by: str
) -> None:
    panel.post("/billing/credits/credits-500", {"way": "manual:ccp"})
    url = "https://pay.example/c/1" if state == "pending" else ""
    money = {"paid_at": clock.now(), "received_amount": F("amount")} if state == "succeeded" else {}
    Payment.objects.update(state=state, gateway="stripe", checkout_url=url, **money)
    payment = Payment.objects.get(account=account)
    headers = {"HX-Request": "true"} if asked_by == "the page itself" else {}

    page = text(panel.get(f"/billing/payments/{payment.reference}", headers=headers))

    shown = page.partition('data-state="')[2].partition("</section>")[0]
    assert shown.startswith(state)
    assert re.findall(r'<a class="(button[^"]*)" href="([^"]*)"', shown) == buttons


def test_a_member_sees_and_only_an_owner_buys(panel: Client, user: User, account: Account) -> None:
    team, member = team_with_member(panel, user)

    seen = member.get("/billing/plans/pro")
    bought = member.post("/billing/plans/pro", {"way": "manual:ccp", "kind": "buy"})

    assert seen.status_code == 200
    assert "Only an owner of the account may do this." in text(seen)
    assert bought.status_code == 400
    assert not Payment.objects.filter(account=team).exists()


# --- teams ---


def team_with_member(panel: Client, user: User) -> tuple[Account, Client]:
    panel.post("/billing/team/new", {"name": "Atelier"})
    team = Account.objects.get(name="Atelier")
    omar = customer_register(email="omar@example.com", password=PASSWORD).user
    team.memberships.create(user=omar, role="member")
    member = browser_of(omar)
    member.post("/billing/account", {"account": str(team.pk)})
    return team, member


def test_an_invitation_by_mail_makes_a_member_once(panel: Client, account: Account) -> None:
    panel.post("/billing/team/new", {"name": "Atelier"})
    team = Account.objects.get(name="Atelier")
    omar = customer_register(email="omar@example.com", password=PASSWORD).user

    panel.post("/billing/team", {"email": "Omar@example.com", "role": "member"})
    assert members.invitation_send(invitation_id=Invitation.objects.get().pk)
    [link] = re.findall(r"/billing/invitation\?token=(\S+)", mail.outbox[-1].body)
    guest = browser_of(omar)
    shown = guest.get(f"/billing/invitation?token={link}")
    before = team.memberships.count()
    accepted = guest.post("/billing/invitation", {"token": link.replace("%3A", ":")})
    again = guest.post("/billing/invitation", {"token": link.replace("%3A", ":")})

    assert (shown.status_code, before) == (200, 1)
    assert accepted.headers["Location"] == "/billing/"
    assert team.memberships.get(user=omar).role == "member"
    assert again.status_code == 400
    assert Event.objects.filter(kind="invitation.accepted", account_id=team.pk).count() == 1


def test_an_invitation_is_for_its_address_alone(panel: Client, stranger: Client, account: Account) -> None:
    panel.post("/billing/team/new", {"name": "Atelier"})
    panel.post("/billing/team", {"email": "lina@example.com", "role": "owner"})
    token = members.invitation_token(Invitation.objects.get())

    response = stranger.post("/billing/invitation", {"token": token})

    assert response.status_code == 403
    assert Account.objects.get(name="Atelier").memberships.count() == 1


def test_a_withdrawn_invitation_opens_nothing(panel: Client, user: User, account: Account) -> None:
    panel.post("/billing/team/new", {"name": "Atelier"})
    panel.post("/billing/team", {"email": "omar@example.com", "role": "member"})
    invitation = Invitation.objects.get()

    panel.post(f"/billing/invitations/{invitation.pk}/revoke")

    with pytest.raises(ApiError, match="withdrawn"):
        members.invitation_by_token(members.invitation_token(invitation))


def test_the_last_owner_stays(panel: Client, user: User, account: Account) -> None:
    team, _ = team_with_member(panel, user)

    panel.post(f"/billing/team/{user.pk}/remove")
    panel.post(f"/billing/team/{user.pk}/member")

    assert team.memberships.get(user=user).role == "owner"


def test_a_removed_member_sees_the_account_no_more(panel: Client, user: User, account: Account) -> None:
    team, member = team_with_member(panel, user)
    omar = team.memberships.get(role="member").user

    panel.post(f"/billing/team/{omar.pk}/remove")
    after = text(member.get("/billing/team"))

    assert "Atelier" not in after
    assert Event.objects.filter(kind="member.removed", account_id=team.pk).count() == 1


def test_a_member_may_not_manage_members(panel: Client, user: User, account: Account) -> None:
    team, member = team_with_member(panel, user)

    member.post(f"/billing/team/{user.pk}/remove")
    member.post("/billing/team", {"email": "x@example.com", "role": "owner"})

    assert team.memberships.count() == 2
    assert not Invitation.objects.exists()


# --- settings ---


def test_a_new_password_keeps_this_browser_and_ends_others(panel: Client, user: User) -> None:
    other = browser_of(user)
    form = {"form": "password", "password": PASSWORD, "new_password": "another horse battery"}

    wrong = panel.post("/billing/settings", form | {"password": "not it"})
    saved = panel.post("/billing/settings", form)

    assert "The present password is wrong." in text(wrong)
    assert saved.headers["Location"] == "/billing/settings"
    assert panel.get("/billing/").status_code == 200
    assert other.get("/billing/").status_code == 302


def test_another_time_zone_counts_from_the_next_day_on(panel: Client, account: Account) -> None:
    form = {"form": "account", "name": "Sara", "country": "DZ", "currency": "DZD", "time_zone": "Asia/Kolkata"}

    with freeze_time("2026-03-10T12:00:00Z"):
        panel.post("/billing/settings", form)
    account.refresh_from_db()
    waiting = (account.time_zone, account.next_time_zone, account.next_time_zone_at)
    early = preferences.time_zones_apply(now=datetime(2026, 3, 10, 22, 59, tzinfo=UTC))
    due = preferences.time_zones_apply(now=datetime(2026, 3, 10, 23, 0, tzinfo=UTC))
    again = preferences.time_zones_apply(now=datetime(2026, 3, 10, 23, 0, tzinfo=UTC))

    account.refresh_from_db()
    assert waiting == ("Africa/Algiers", "Asia/Kolkata", datetime(2026, 3, 10, 23, 0, tzinfo=UTC))
    assert (early, due, again) == (0, 1, 0)
    assert (account.time_zone, account.next_time_zone, account.next_time_zone_at) == ("Asia/Kolkata", "", None)


def test_the_time_zone_changes_once_in_thirty_days(account: Account, user: User) -> None:
    actor = members.Actor("user", user.pk, user.email)  # type: ignore[arg-type]
    preferences.account_change(account=account, actor=actor, time_zone="Asia/Kolkata")
    preferences.time_zones_apply(now=datetime(2100, 1, 1, tzinfo=UTC))

    with pytest.raises(ApiError) as refused:
        preferences.account_change(account=account, actor=actor, time_zone="Europe/Paris")

    assert refused.value.code == "time_zone_changed_lately"


def test_the_billing_address_is_checked_by_the_api(panel: Client, account: Account) -> None:
    form = {"form": "profile", "name": "Sara SARL", "country": "DZ", "language": "fr", "tax_status": "business"}

    wrong = panel.post("/billing/settings", form | {"nif": "12"})
    saved = panel.post("/billing/settings", form | {"nif": "000016001234567"})

    account.billing_profile.refresh_from_db()
    assert "This identifier cannot be right." in text(wrong)
    assert saved.status_code == 302
    assert (account.billing_profile.name, account.billing_profile.identifiers) == ("Sara SARL", {"nif": "000016001234567"})


@pytest.mark.parametrize(
    ("country", "kept", "shown"),
    [
        ("DZ", {}, ["nif", "rc", "ai", "nis"]),
        ("IN", {}, ["gstin"]),
        ("FR", {}, ["vat"]),
        ("FR", {"nif": "000016001234567"}, ["nif", "vat"]),
    ],
)
def test_tax_ids_are_asked_for_where_they_exist_and_shown_where_they_are_kept(
    panel: Client, account: Account, country: str, kept: dict[str, str], shown: list[str]
) -> None:
    BillingProfile.objects.update_or_create(account=account, defaults={"country": country, "identifiers": kept})

    page = panel.get("/billing/settings").content.decode()

    fields = re.findall(r'<div class="field" data-countries="[^"]+"( hidden)?>\s*<label for="profile_(\w+)"', page)
    assert [name for hidden, name in fields if not hidden] == shown
    assert len(fields) == 6


def test_a_user_opens_three_teams_and_no_fourth(panel: Client, user: User) -> None:
    for name in ("one", "two", "three", "four"):
        panel.post("/billing/team/new", {"name": name})

    assert sorted(user.accounts.filter(kind="organisation").values_list("name", flat=True)) == ["one", "three", "two"]


def test_the_playground_token_is_the_users_and_needs_a_post(panel: Client, account: Account) -> None:
    grant(account, 1)

    looked = panel.get("/billing/playground/token")
    token = panel.post("/billing/playground/token").json()

    used = Client().get("/api/auth/me", headers={"authorization": f"Bearer {token['access_token']}"})
    assert looked.status_code == 405
    assert token["expires_in"] == 1800
    assert used.json()["user"]["email"] == "sara@example.com"


# --- invoices and cards ---


@pytest.fixture
def owed(account: Account, user: User) -> Invoice:
    """An invoice of 1,000 DZD that waits to be paid."""
    item = LineItem(kind="period", description="Plan Pro", amount=Decimal(1000), tax_included=True)
    draft = invoice_draft(account=account, purpose="period", items=[item], currency="DZD")
    return invoice_finalise(invoice=draft, actor=SYSTEM)


def test_an_open_invoice_is_paid_from_its_page_in_the_way_chosen(panel: Client, owed: Invoice) -> None:
    page = text(panel.get(f"/billing/invoices/{owed.number}"))

    first = panel.post(f"/billing/invoices/{owed.number}/pay", {"way": "manual:ccp", "attempt": "aa1"})
    again = panel.post(f"/billing/invoices/{owed.number}/pay", {"way": "manual:ccp", "attempt": "aa3"})
    other = panel.post(f"/billing/invoices/{owed.number}/pay", {"way": "manual:bank_transfer", "attempt": "aa2"})

    payments = list(Payment.objects.filter(invoice=owed).order_by("created_at").values_list("method", "state"))
    latest = Payment.objects.filter(invoice=owed).latest("created_at")
    assert "Pay DZD\xa01,000" in page
    assert first.headers["Location"].startswith("/billing/payments/")
    assert again.headers["Location"] == first.headers["Location"]
    assert other.headers["Location"] == f"/billing/payments/{latest.reference}"
    assert payments == [("ccp", "pending"), ("bank_transfer", "pending")]


def test_a_strangers_invoice_is_not_paid(stranger: Client, owed: Invoice) -> None:
    response = stranger.post(f"/billing/invoices/{owed.number}/pay", {"way": "manual:ccp"})

    assert response.status_code == 404
    assert not Payment.objects.filter(invoice=owed).exists()


@pytest.fixture
def card(account: Account) -> SavedCard:
    return SavedCard.objects.create(
        account=account,
        gateway="stripe",
        mode="test",
        gateway_customer_id="cus_1",
        gateway_card_id="pm_1",
        brand="visa",
        last4="4242",
        exp_month=12,
        exp_year=2099,
        saved_at=clock.now(),
    )


def test_automatic_renewal_is_agreed_to_in_the_wording_shown_and_taken_back(
    panel: Client, account: Account, card: SavedCard
) -> None:
    page = text(panel.get("/billing/payment-methods"))
    [wording] = re.findall(r'name="wording" value="([^"]+)"', page)

    stale = panel.post("/billing/payment-methods/auto-renewal", {"enabled": "1", "wording": "1999-01-01"})
    refused = consent_in_force(account)
    panel.post("/billing/payment-methods/auto-renewal", {"enabled": "1", "wording": wording})
    agreed = consent_in_force(account)
    panel.post("/billing/payment-methods/auto-renewal", {"enabled": "0"})

    assert "4242" in page
    assert (stale.status_code, refused) == (302, None)
    assert agreed is not None
    assert (agreed.card, agreed.wording_version) == (card, wording)
    assert consent_in_force(account) is None


def test_a_card_is_removed_by_its_owner_and_by_nobody_else(panel: Client, stranger: Client, card: SavedCard) -> None:
    foreign = stranger.post(f"/billing/payment-methods/{card.pk}/remove")
    card.refresh_from_db()
    kept = card.removed_at is None
    panel.post(f"/billing/payment-methods/{card.pk}/remove")

    card.refresh_from_db()
    assert (foreign.status_code, kept) == (404, True)
    assert card.removed_at is not None
