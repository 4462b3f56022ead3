"""The account page: every block of one customer, for those who may see it, and what can be done from there."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django_redis import get_redis_connection
from freezegun import freeze_time

from billing.accounts.models import Account, Membership, User
from billing.accounts.services import account_limits_set, api_key_create, password_reset_send
from billing.events.models import Event
from billing.events.services import SYSTEM, Actor, event_record
from billing.invoices.models import Invoice, SellerProfile
from billing.models import CustomerNotice, Lot, ManualMethod, Payment, Refund, SavedCard, Subscription
from billing.plans.models import Plan, PlanPrice
from dashboard.console.account.limits import limits_in_force
from dashboard.console.account.page import account_page
from dashboard.impersonation.models import Impersonation
from iafactory.common import clock
from iafactory.common.ids import uuid7
from ratelimit.scopes import WindowCounter
from ratelimit.signals import signal_raise

from .conftest import PASSWORD, account, billed, call, free_plan, grant, hold

__all__ = ("account", "free_plan")

AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def page_of(account: Account) -> str:
    return reverse("admin:billing_account_change", args=[account.pk])


def text(response: Any) -> str:
    return str(response.content.decode())


def clerk(role: str) -> Client:
    user = User.objects.create_user(f"{role.lower()}@example.com", PASSWORD, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def paid_plan() -> Plan:
    plan = Plan.objects.create(
        code="pro",
        family="chat",
        name="Pro",
        billing_mode="quota",
        visibility="public",
        daily_limit=400,
        requests_per_minute=60,
    )
    PlanPrice.objects.create(plan=plan, currency="DZD", amount=3000, effective_from=AT - timedelta(days=400))
    return plan


def on_plan(account: Account, plan: Plan) -> Subscription:
    """The account on a running month of a plan."""
    now = clock.now()
    live = Subscription.objects.get(account=account)
    live.plan, live.price = plan, plan.prices.get()
    live.current_period_start, live.current_period_end = now - timedelta(days=15), now + timedelta(days=15)
    live.billing_anchor = live.paid_through = live.current_period_end
    live.period_value = Decimal(3000)
    live.save()
    return live


def payment_of(account: Account, number: int = 1) -> Payment:
    """Money of the customer that no invoice took."""
    return Payment.objects.create(
        **{
            "account": account,
            "purpose": "topup",
            "gateway": "manual",
            "method": "ccp",
            "currency": "DZD",
            "state": "succeeded",
        },
        **{"amount": 1000, "received_amount": 1000, "unapplied_amount": 1000, "paid_at": clock.now()},
    )


def fill(account: Account, number: int) -> None:
    """One more row of every block."""
    now = clock.now()
    key, _ = api_key_create(account=account, created_by=None, name=f"k{number}", actor=SYSTEM, requests_per_minute=5)
    grant(account, Decimal(10))
    call(account, api_key_id=key.pk)
    hold(account, credits=Decimal("0.1"))
    payment = payment_of(account)
    Refund.objects.create(payment=payment, amount=1, currency="DZD", reason="x", requested_by="op", requested_at=now)
    SavedCard.objects.create(
        **{"account": account, "gateway": "stripe", "mode": "test", "brand": "visa", "last4": "4242", "saved_at": now},
        **{"gateway_customer_id": "c", "gateway_card_id": f"pm_{number}"},
    )
    Subscription.objects.create(
        **{"account": account, "plan": Plan.objects.get(code="free"), "state": "canceled", "ended_at": now},
        **{"current_period_start": now, "billing_anchor": now},
    )
    Invoice.objects.create(**_invoice_values(account))
    signal_raise(subject=f"key:{key.pk}", signal="key_networks", evidence={"networks": 12, "limit": 10})
    CustomerNotice.objects.create(account=account, kind="quota", level="low", key=f"day-{number}")
    member = User.objects.create_user(f"m{number}@example.com", PASSWORD)
    Membership.objects.create(account=account, user=member, role="member")
    Impersonation.objects.create(
        **{"operator": member, "user": member, "account": account, "reason": "x", "began_at": now - timedelta(hours=1)},
        **{"expires_at": now, "ended_at": now, "ending": "expired"},
    )
    event_record(
        **{"kind": "account.renamed", "object_type": "account", "object_id": account.pk, "account_id": account.pk},
        **{"actor": SYSTEM, "before": {"name": "A"}, "after": {"name": "B"}},
    )


def _invoice_values(account: Account) -> dict[str, Any]:
    """A draft like the one that the account has."""
    known = Invoice.objects.filter(account=account).values().first()
    assert known is not None
    return known | {"id": uuid7(), "number": None, "sequence": None, "state": "draft", "issued_at": None}


def queries_of(client: Client, account: Account) -> int:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert client.get(page_of(account)).status_code == 200
    return len(captured)


# --- What it shows ---


def test_the_page_opens_for_an_account_with_nothing(console: Client, free_plan: Plan) -> None:
    bare = Account.objects.create(kind="organisation", name="Bare")

    page = text(console.get(page_of(bare)))

    empty = ("No open lot.", "No key.", "No call yet.", "No invoice.", "No payment.", "No saved card.", "Never subscribed.")
    assert [words for words in empty if words not in page] == []
    assert "no wallet yet" in page
    assert "No member: nobody logs in." in page


def test_figures_flags_and_use(console: Client, account: Account) -> None:
    call(account)
    hold(account)
    account_limits_set(account=account, actor=SYSTEM, reason="spam", requests_per_minute=1)
    signal_raise(subject=f"account:{account.pk}", signal="messages_a_day", evidence={"messages": 400})

    page = account_page(account, may=lambda right: True, now=clock.now())

    assert page.wallet is not None
    assert (page.wallet.available, page.wallet.held, page.holds_open) == (Decimal("96.65"), Decimal(2), 1)
    assert page.use is not None
    assert (page.use.report.totals.calls, page.use.report.totals.credits_charged) == (1, Decimal("1.35"))
    assert [line.label for line in page.use.models] == ["llama-3.3-70b"]
    assert (len(page.use.days), page.use.chart()["credits"][-1]) == (30, "1.350000")
    assert [str(flag.label) for flag in page.flags] == ["Abuse signals: 1", "Own limits", "E-mail not verified"]


def test_the_timeline_tells_what_changed(console: Client, account: Account) -> None:
    operator = Actor(Event.ActorKind.OPERATOR, id=uuid7(), label="ops@example.com")
    event_record(
        **{"kind": "account.edited", "object_type": "account", "object_id": account.pk, "account_id": account.pk},
        **{"actor": operator, "before": {"country": "DZ", "name": "Sara"}, "after": {"country": "FR", "name": "Sara"}},
        reason="moved",
    )

    page = text(console.get(page_of(account)))

    assert "ops@example.com: moved" in page
    assert "<dt>country</dt><dd><del>DZ</del> → <ins>FR</ins></dd>" in page
    assert "<dt>name</dt><dd><del>Sara</del>" not in page


def test_limits_in_force_say_what_is_used_now(account: Account, free_plan: Plan) -> None:
    key, _ = api_key_create(account=account, created_by=None, name="k", actor=SYSTEM, monthly_credits=Decimal(50))
    own = account_limits_set(account=account, actor=SYSTEM, reason="spam", requests_per_minute=10)
    redis = get_redis_connection("default")
    redis.flushdb()
    with freeze_time(AT, real_asyncio=True):
        # The account's day ends at midnight in Algiers, 23:00 UTC.
        day = WindowCounter(key=f"q:{account.pk}", name="x", limit=3, window_end_ms=_ms(datetime(2026, 11, 20, 23, tzinfo=UTC)))
        month = WindowCounter(key=f"km:{key.pk}", name="x", limit=9, window_end_ms=_ms(datetime(2026, 11, 30, 23, tzinfo=UTC)))
        redis.set(day.storage_key, 2)
        redis.set(month.storage_key, 12_500_000)
        found = limits_in_force(account, [key], own, at=AT, show_allowance=True)

    told = [(str(line.name), str(line.source), line.key, line.used, line.limit, line.percent) for line in found.lines]
    assert found.readable
    assert told == [
        ("Requests of the plan's day", "Plan", None, Decimal(2), Decimal(3), 66),
        ("Requests per minute", "Set by an operator", None, Decimal(0), Decimal(10), 0),
        ("Credits a calendar month", "Key", key, Decimal("12.5"), Decimal(50), 25),
    ]
    assert found.lines[0].resets_at == datetime(2026, 11, 20, 23, tzinfo=UTC)


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def test_as_many_queries_for_fifty_rows_of_each_block_as_for_two(console: Client, account: Account) -> None:
    billed(account, 1)
    SellerProfile.objects.update(is_default=True)
    for number in (1, 2):
        fill(account, number)
    queries_of(console, account)
    few = queries_of(console, account)
    for number in range(3, 51):
        fill(account, number)

    many = queries_of(console, account)

    assert many == few
    assert few <= 50


# --- Who sees what and may do what ---

BUTTONS = {
    "grant/": ("Owner", "Finance"),
    "/do/change-plan/": ("Owner", "Finance", "Support"),
    "/do/extend/": ("Owner", "Finance", "Support"),
    "new-key/": ("Owner", "Support"),
    "send-reset/": ("Owner", "Support"),
    "log-in-as/": ("Owner",),
    "/block/": ("Owner", "Support"),
    "/do/refund/": ("Owner", "Finance"),
    "Cost to us": ("Owner", "Finance", "Read-only"),
}


@pytest.mark.parametrize("role", ["Owner", "Finance", "Support", "Read-only"])
def test_buttons_by_role(account: Account, role: str) -> None:
    on_plan(account, paid_plan())
    payment_of(account)

    page = text(clerk(role).get(page_of(account)))

    assert {button for button in BUTTONS if button in page} == {button for button, roles in BUTTONS.items() if role in roles}


@pytest.mark.parametrize(("role", "status"), [("Owner", 200), ("Finance", 403), ("Support", 200), ("Read-only", 403)])
def test_who_may_have_a_reset_mailed(account: Account, role: str, status: int) -> None:
    client = clerk(role)

    answer = client.post(reverse("admin:billing_account_send_reset", args=[account.pk]), {})

    assert answer.status_code == status
    assert Event.objects.filter(kind="user.password_reset_offered").count() == 0


@pytest.mark.parametrize(("role", "status"), [("Owner", 302), ("Finance", 302), ("Support", 302), ("Read-only", 403)])
def test_who_may_extend(account: Account, role: str, status: int) -> None:
    live = on_plan(account, paid_plan())
    end = live.current_period_end
    assert end is not None

    answer = clerk(role).post(deed(live, "extend"), {"days": "7", "reason": "outage", "_confirm": "1"})

    live.refresh_from_db()
    assert answer.status_code == status
    assert live.current_period_end == (end if status == 403 else end + timedelta(days=7))


# --- Deeds ---


def deed(row: Any, name: str) -> str:
    return reverse(f"admin:billing_{row._meta.model_name}_deed", args=[row.pk, name]) + "?from=account"


def test_a_reset_is_mailed_once_however_often_the_form_is_sent(console: Client, account: Account) -> None:
    user = account.members.get()
    address = reverse("admin:billing_account_send_reset", args=[account.pk])
    data = {"member": str(user.pk), "reason": "asked by phone", "form_id": str(uuid7())}

    asked = text(console.post(address, data))
    first = console.post(address, data | {"_confirm": "1"}, follow=True)
    again = console.post(address, data | {"_confirm": "1"}, follow=True)
    password_reset_send(email=user.email)

    [told] = Event.objects.filter(kind="user.password_reset_offered")
    assert "<dt>Customer</dt><dd>sara@example.com</dd>" in asked
    assert "The link is on its way to sara@example.com." in text(first)
    assert "This form was acted on before" in text(again)
    assert (told.actor_label, told.account_id, told.reason) == ("operator@example.com", account.pk, "asked by phone")
    assert told.after == {"email": "sara@example.com"}
    assert [message.to for message in mail.outbox] == [["sara@example.com"]]


def test_no_reset_is_mailed_to_operators(console: Client, account: Account) -> None:
    User.objects.filter(accounts=account).update(is_staff=True)
    user = account.members.get()

    answer = console.post(
        reverse("admin:billing_account_send_reset", args=[account.pk]), {"member": str(user.pk), "reason": "x", "_confirm": "1"}
    )

    assert answer["location"] == page_of(account)
    assert Event.objects.filter(kind="user.password_reset_offered").count() == 0


def test_extending_is_told_before_it_is_done_and_done_once(console: Client, account: Account) -> None:
    with freeze_time(AT, real_asyncio=True):
        live = on_plan(account, paid_plan())
        data = {"days": "10", "reason": "outage", "form_id": str(uuid7())}
        asked = text(console.post(deed(live, "extend"), data))
        before = Subscription.objects.get(pk=live.pk).current_period_end
        first = console.post(deed(live, "extend"), data | {"_confirm": "1"})
        console.post(deed(live, "extend"), data | {"_confirm": "1"})

    live.refresh_from_db()
    assert "2026-12-05 12:00:00 → 2026-12-15 12:00:00 UTC" in asked
    assert "<dt>Worth at the plan&#x27;s price</dt><dd>1000 DZD</dd>" in asked
    assert before == AT + timedelta(days=15)
    assert first["location"] == page_of(account)
    assert live.current_period_end == AT + timedelta(days=25)
    assert Event.objects.filter(kind="subscription.extended").count() == 1


def test_a_change_of_plan_shows_its_quote(console: Client, account: Account) -> None:
    with freeze_time(AT, real_asyncio=True):
        live = on_plan(account, paid_plan())
        plus = Plan.objects.create(code="plus", family="chat", name="Plus", billing_mode="quota", visibility="public")
        PlanPrice.objects.create(plan=plus, currency="DZD", amount=6000, effective_from=AT - timedelta(days=400))
        data = {"plan": plus.pk, "when": "now", "reason": "asked"}
        asked = text(console.post(deed(live, "change-plan"), data))
        later = text(console.post(deed(live, "change-plan"), data | {"when": "period_end"}))

    live.refresh_from_db()
    assert "<dt>New plan, for the time left</dt><dd>3000 DZD</dd>" in asked
    assert "<dt>Given back of the old plan</dt><dd>1500 DZD</dd>" in asked
    assert "<dt>To pay before tax and rounding</dt><dd>1500 DZD</dd>" in asked
    assert "<dt>To pay now</dt><dd>nothing</dd>" in later
    assert (live.plan.code, live.next_plan) == ("pro", None)


def test_a_refund_shows_what_goes_and_is_asked_for_once(console: Client, account: Account) -> None:
    ManualMethod.objects.create(code="ccp", name="CCP", instructions="Pay.", currencies=["DZD"])
    payment = payment_of(account)
    data = {"part": "unapplied", "amount": "400", "reason": "paid twice", "by_hand": "on", "form_id": str(uuid7())}

    asked = text(console.post(deed(payment, "refund"), data))
    too_much = text(console.post(deed(payment, "refund"), data | {"amount": "1000.01"}))
    asked_for = Refund.objects.count()
    first = console.post(deed(payment, "refund"), data | {"_confirm": "1"})
    console.post(deed(payment, "refund"), data | {"_confirm": "1"})

    payment.refresh_from_db()
    assert "<dt>Goes back</dt><dd>400 DZD</dd>" in asked
    assert "At most 1000 DZD can go back." in too_much
    assert (asked_for, first["location"]) == (0, page_of(account))
    assert (Refund.objects.get().amount, payment.refunded_amount) == (Decimal(400), Decimal(400))


def test_blocks_link_to_their_full_lists(console: Client, account: Account) -> None:
    page = account_page(account, may=lambda right: True, now=clock.now())

    answers = {name: console.get(url).status_code for name, url in page.urls.items()}

    assert answers == dict.fromkeys(page.urls, 200)


def test_who_may_not_see_a_list_does_not_see_its_block(account: Account) -> None:
    page = account_page(account, may=lambda right: right == "billing.view_account", now=clock.now())

    hidden = (page.lots, page.use, page.calls, page.keys, page.invoices, page.payments, page.cards, page.limits, page.signals)
    assert hidden == (None,) * 9
    assert (page.members, page.notices, page.events, page.logins, any(page.may.values())) == (None, None, None, None, False)


def test_lots_are_shown_in_burn_order(console: Client, account: Account) -> None:
    late = grant(account, Decimal(5))

    page = account_page(account, may=lambda right: True, now=clock.now())

    assert [lot.pk for lot, _source in page.lots or []] == [
        *Lot.objects.filter(amount=100).values_list("pk", flat=True),
        late.pk,
    ]
