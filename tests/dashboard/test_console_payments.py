"""Payments, the lifecycle and prices in the console: through the services, with a reason, and with rights of their own."""

from decimal import Decimal

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from billing.accounts.admin import AccountSearchMixin
from billing.accounts.models import Account, User
from billing.events.models import Event
from billing.models import Payment, PaymentProof, SavedCard, Subscription
from billing.payments.auto_renewal import Agreement, auto_renewal_agree, consent_in_force
from billing.payments.manual import manual_method, manual_payment_begin, proof_add
from billing.payments.wording import CONSENT_VERSION
from billing.subscriptions.changes import plan_change
from tests.billing.subscriptions.conftest import customer, shop, time
from tests.billing.subscriptions.selling import CUSTOMER, begin, live, pay, plan_make, price_make, subscribe
from tests.dashboard.conftest import PASSWORD

__all__ = ("customer", "shop", "time")


def payment_of(account: Account) -> Payment:
    invoice = begin(account, plan_make("pro", "3000")).to_pay
    method = manual_method(account=account, currency="DZD")
    payment = manual_payment_begin(invoice=invoice, method=method, purpose="subscribe", actor=CUSTOMER)
    proof_add(payment=payment, content=b"%PDF-1.4 slip", file_name="slip.pdf", actor=CUSTOMER)
    return payment


def deed(model: str, pk: object, name: str) -> str:
    return reverse(f"admin:billing_{model}_deed", args=[pk, name])


def test_operator_confirms_a_payment_with_a_reason(console: Client, customer: Account) -> None:
    payment = payment_of(customer)
    page = console.get(reverse("admin:billing_payment_change", args=[payment.pk])).content.decode()
    address = deed("payment", payment.pk, "confirm")
    asked = console.get(address)

    without = console.post(address, {"received": "3000"})
    done = console.post(address, {"received": "3000", "reason": "on the statement of today"})

    payment.refresh_from_db()
    assert address in page
    assert "slip.pdf" in asked.content.decode()
    assert (without.status_code, done.status_code) == (200, 302)
    assert (payment.state, live(customer).plan.code) == ("succeeded", "pro")
    told = Event.objects.get(kind="payment.succeeded")
    assert (told.reason, told.actor_label) == ("on the statement of today", "operator@example.com")


@pytest.mark.parametrize("told", ["reference", "customer_reference", "invoice", "account"])
def test_payment_is_found_by_what_a_customer_tells(console: Client, customer: Account, told: str) -> None:
    payment = payment_of(customer)
    Payment.objects.filter(pk=payment.pk).update(customer_reference="VIR-2026/77")
    term = {
        "reference": payment.reference,
        "customer_reference": "vir-2026/77",
        "invoice": payment.invoice.number or str(customer.pk),
        "account": customer.name,
    }[told]

    found = console.get(reverse("admin:billing_payment_changelist"), {"q": term}).context["cl"].queryset

    assert list(found) == [payment]


def test_no_list_of_accounts_rows_names_search_fields_that_do_not_count() -> None:
    ignored = [
        type(model_admin).__name__
        for model_admin in site._registry.values()
        if isinstance(model_admin, AccountSearchMixin) and tuple(model_admin.search_fields) != ("account",)
    ]

    assert ignored == []


def test_operator_rejects_a_payment(console: Client, customer: Account) -> None:
    payment = payment_of(customer)

    console.post(deed("payment", payment.pk, "reject"), {"reason": "nothing came"})

    payment.refresh_from_db()
    assert (payment.state, live(customer).plan.code) == ("failed", "free")


def test_proof_is_shown_without_scripts(console: Client, customer: Account) -> None:
    payment_of(customer)

    response = console.get(reverse("admin:billing_payment_proof", args=[PaymentProof.objects.get().pk]))

    assert (response.content, response["Content-Type"]) == (b"%PDF-1.4 slip", "application/pdf")
    assert "sandbox" in response["Content-Security-Policy"]


@pytest.mark.parametrize("name", ["confirm", "reject"])
def test_who_may_only_look_confirms_nothing(customer: Account, name: str) -> None:
    payment = payment_of(customer)
    viewer = User.objects.create_user("viewer@example.com", PASSWORD, is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_payment"))
    client = Client()
    client.force_login(viewer)

    response = client.post(deed("payment", payment.pk, name), {"received": "3000", "reason": "mine"})

    payment.refresh_from_db()
    assert (response.status_code, payment.state) == (403, "pending")


def test_unapplied_money_is_kept_in_hand(console: Client, customer: Account) -> None:
    payment = pay(begin(customer, plan_make("pro", "3000")).to_pay, received=Decimal(500))

    console.post(deed("payment", payment.pk, "keep"), {"reason": "asked"})

    payment.refresh_from_db()
    assert payment.unapplied_amount == 0
    assert customer.money_balances.get().amount == Decimal(500)


@pytest.mark.parametrize(
    ("name", "form", "state", "canceled"),
    [
        ("cancel", {}, "active", True),
        ("cancel-now", {}, "canceled", False),
        ("pause", {}, "paused", False),
    ],
)
def test_operator_moves_a_subscription(
    console: Client, customer: Account, name: str, form: dict[str, str], state: str, canceled: bool
) -> None:
    subscription = subscribe(customer, plan_make("pro", "3000"))

    console.post(deed("subscription", subscription.pk, name), {"reason": "asked by phone", **form})

    subscription.refresh_from_db()
    assert (subscription.state, subscription.cancel_at_period_end) == (state, canceled)
    assert Event.objects.filter(object_id=str(subscription.pk), reason="asked by phone").exists()


def test_operator_schedules_a_change_of_plan(console: Client, customer: Account) -> None:
    subscription = subscribe(customer, plan_make("pro", "3000"))
    small = plan_make("small", "1000")

    console.post(
        deed("subscription", subscription.pk, "change-plan"),
        {"plan": small.pk, "when": "period_end", "reason": "asked", "_confirm": "1"},
    )

    assert live(customer).next_plan == small


def test_operator_takes_a_planned_change_back(console: Client, customer: Account) -> None:
    subscription = subscribe(customer, plan_make("pro", "3000"))
    plan_change(subscription=subscription, plan=plan_make("small", "1000"), actor=CUSTOMER)
    address = deed("subscription", subscription.pk, "forget-change")

    done = console.post(address, {"reason": "asked by phone"})
    again = console.get(address)

    assert (done.status_code, live(customer).next_plan) == (302, None)
    assert Event.objects.get(kind="subscription.change_forgotten").reason == "asked by phone"
    # Nothing is planned any more.
    assert again.status_code == 302


def card_of(account: Account) -> SavedCard:
    """A card that an account's renewals are charged to."""
    card = SavedCard.objects.create(
        account=account,
        gateway="stripe",
        mode="test",
        gateway_customer_id="cus_1",
        gateway_card_id="pm_1",
        brand="visa",
        last4="4242",
        exp_month=12,
        exp_year=2034,
        saved_at=account.created_at,
    )
    agreement = Agreement(CONSENT_VERSION, "en")
    auto_renewal_agree(account=account, agreement=agreement, actor=CUSTOMER)
    return card


def test_operator_removes_a_card_for_its_owner(console: Client, customer: Account) -> None:
    card = card_of(customer)
    page = console.get(reverse("admin:billing_savedcard_change", args=[card.pk])).content.decode()

    without = console.post(deed("savedcard", card.pk, "remove"), {})
    kept = consent_in_force(customer)
    console.post(deed("savedcard", card.pk, "remove"), {"reason": "asked by phone"})

    card.refresh_from_db()
    assert "visa •••• 4242" in page
    assert "12/2034" in page
    assert (without.status_code, kept is not None) == (200, True)
    assert (card.removed_reason, consent_in_force(customer)) == ("asked by phone", None)


def test_operator_ends_automatic_renewal_and_sees_what_was_agreed_to(console: Client, customer: Account) -> None:
    card = card_of(customer)
    consent = consent_in_force(customer)
    assert consent is not None
    page = console.get(reverse("admin:billing_autorenewalconsent_change", args=[consent.pk])).content.decode()

    console.post(deed("autorenewalconsent", consent.pk, "withdraw"), {"reason": "asked by phone"})

    consent.refresh_from_db()
    card.refresh_from_db()
    assert "I agree that my card is kept" in page
    assert (consent.withdrawn_reason, consent.withdrawn_by) == ("asked by phone", "operator@example.com")
    assert card.removed_at is None


def test_prices_are_migrated_after_a_preview(console: Client, customer: Account) -> None:
    pro = plan_make("pro", "3000")
    subscribe(customer, pro)
    raised = price_make(pro, "4000", at=customer.created_at)
    address = reverse("admin:billing_subscription_price_migration", args=[raised.pk])

    preview = console.get(address).content.decode()
    untouched = live(customer).next_price
    console.post(address, {"reason": "costs rose"})

    assert "3,000 → 4,000 DZD" in preview
    assert (untouched, live(customer).next_price) == (None, raised)


def test_deed_that_makes_no_sense_any_more_is_not_done(console: Client, customer: Account) -> None:
    subscription = subscribe(customer, plan_make("pro", "3000"))

    console.post(deed("subscription", subscription.pk, "resume"), {"reason": "x"})

    assert Subscription.objects.get(pk=subscription.pk).state == "active"
    assert Payment.objects.count() == 1
