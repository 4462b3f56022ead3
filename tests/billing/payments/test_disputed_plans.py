"""Disputes over plans that have no credits to take back: they end with the money, and come back with it."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from freezegun import freeze_time

from billing.models import Dispute, Event, GatewayWebhook, Payment, Subscription
from billing.payments.disputes import dispute_lost, dispute_open, dispute_won
from billing.subscriptions.changes import subscription_pause
from billing.subscriptions.services import subscription_switch
from iafactory.common import clock
from tests.billing.subscriptions.selling import OPERATOR, event_kinds, live, plan_make, subscribe, wrong
from tests.fakes.server import post

from .conftest import PAYU_TOKEN
from .market import PRICES, Market, in_threads
from .test_console_webhooks import operator
from .test_refunds import booked

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)


def quota(market: Market) -> Payment:
    """A customer on a plan of requests, paid at the gateway."""
    currency, amount = PRICES[market.slug]
    market.plan = plan_make("quota", amount, currency=currency, daily_limit=400)
    return market.paid(market.subscribe())


def noted(payment: Payment, **fields: Any) -> Dispute:
    return dispute_open(payment=payment, gateway_dispute_id="dp_1", actor=OPERATOR, reason="fraudulent", **fields)


def lost(payment: Payment, **fields: Any) -> Dispute:
    return dispute_lost(dispute=noted(payment, **fields), actor=OPERATOR, reason="bank letter")


@pytest.mark.parametrize("slug", ["stripe", "paypal", "razorpay"])
def test_a_loss_ends_the_plan_that_the_money_paid_for(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = quota(market)
    paid_for = live(market.account)
    dispute_id = market.fake.open_dispute(payment.gateway_payment_id)
    market.deliver()
    meanwhile = market.live_plan()

    market.fake.close_dispute(dispute_id, won=False)
    market.deliver(threads=5)

    paid_for.refresh_from_db()
    assert (meanwhile, paid_for.state, market.live_plan()) == ("quota", "canceled", "free")
    assert event_kinds(paid_for)[-1] == "canceled"
    told = Event.objects.get(kind="dispute.lost")
    assert (told.after["ended"], told.after["debt"]) == (["quota"], "0")
    assert (booked("cash", payment.currency), booked("refunds", payment.currency), wrong()) == (0, market.price, [])


def test_a_win_after_the_loss_gives_the_time_back_that_was_left(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = quota(market)
    before = live(market.account)
    assert before.current_period_end is not None
    whole = before.current_period_end - before.current_period_start
    start = clock.now()
    with freeze_time(start + timedelta(days=10), real_asyncio=True):
        dispute = lost(payment)
        left = before.current_period_end - clock.now()

    with freeze_time(start + timedelta(days=25), real_asyncio=True):
        dispute = dispute_won(dispute=dispute, actor=OPERATOR, reason="appeal")
        now = clock.now()

    again = live(market.account)
    assert (again.plan.code, again.state, again.price) == ("quota", "active", before.price)
    assert (again.current_period_start, again.current_period_end, again.paid_through) == (now, now + left, now + left)
    share = Decimal(left.total_seconds()) / Decimal(whole.total_seconds())
    assert abs(again.period_value - before.period_value * share) < Decimal("0.001")
    assert (dispute.state, dispute.facts["restored"]) == ("won", [str(again.pk)])
    assert (booked("cash", "USD"), booked("refunds", "USD"), wrong()) == (market.price, 0, [])
    assert event_kinds(again) == ["started"]


def test_a_dispute_that_is_won_at_once_leaves_the_plan_alone(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = quota(market)
    before = live(market.account)

    dispute_won(dispute=noted(payment), actor=OPERATOR, reason="bank letter")

    assert (live(market.account), Subscription.objects.filter(account=market.account).count()) == (before, 2)


def test_who_bought_another_plan_meanwhile_keeps_that(market_of: MarketOf) -> None:
    market = market_of("chargily")
    dispute = lost(quota(market))
    other = subscribe(market.account, plan_make("other", "900"))

    dispute = dispute_won(dispute=dispute, actor=OPERATOR, reason="appeal")

    assert (live(market.account), dispute.state, dispute.facts["restored"]) == (other, "won", [])
    assert wrong() == []


def test_time_that_is_over_is_not_given_back(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = quota(market)
    Subscription.objects.filter(account=market.account, state="active").update(
        state="past_due", paid_through=clock.now() - timedelta(hours=1), grace_until=clock.now() + timedelta(days=1)
    )
    dispute = lost(payment)

    dispute = dispute_won(dispute=dispute, actor=OPERATOR, reason="appeal")

    assert (market.live_plan(), dispute.facts["restored"]) == ("free", [])


def test_a_paused_plan_ends_too_and_gets_its_rest_back(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = quota(market)
    paused = subscription_pause(subscription=live(market.account), actor=OPERATOR)
    assert paused.current_period_end is not None
    assert paused.paused_at is not None
    dispute = lost(payment)
    ended = market.live_plan()

    dispute_won(dispute=dispute, actor=OPERATOR, reason="appeal")

    again = live(market.account)
    assert again.current_period_end is not None
    assert (ended, again.plan.code) == ("free", "quota")
    assert again.current_period_end - again.current_period_start == paused.current_period_end - paused.paused_at


def test_a_plan_that_has_ended_stays_ended_and_its_successor_runs_on(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = quota(market)
    other = subscription_switch(account=market.account, plan=plan_make("other", "900"), actor=OPERATOR)

    dispute = lost(payment)

    assert (live(market.account), dispute.facts["ended"]) == (other, [])


def test_a_plan_with_credits_loses_those_and_runs_on(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.paid(market.subscribe())

    dispute = lost(payment)

    assert (market.live_plan(), market.credits(), dispute.facts["ended"]) == ("pro-chargily", 0, [])


def test_money_without_an_invoice_ends_no_plan(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = quota(market)
    Payment.objects.filter(pk=payment.pk).update(received_amount=Decimal(3000), unapplied_amount=Decimal(410))

    dispute = noted(payment, amount=Decimal(410))
    # Only what no invoice took is contested.
    dispute = dispute_lost(dispute=dispute, actor=OPERATOR, reason="bank letter")

    assert (market.live_plan(), dispute.facts["ended"]) == ("quota", [])


def test_twenty_threads_lose_and_win_a_plan_once(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = quota(market)
    dispute = noted(payment)

    in_threads([lambda: dispute_lost(dispute=dispute, actor=OPERATOR, reason="bank letter")] * 20)
    ended = Subscription.objects.filter(account=market.account).count()
    in_threads([lambda: dispute_won(dispute=dispute, actor=OPERATOR, reason="appeal")] * 20)

    # Free, the plan, free again; then the plan again.
    assert (ended, Subscription.objects.filter(account=market.account).count()) == (3, 4)
    assert (market.live_plan(), wrong()) == ("quota", [])


def deed(row: Payment | Dispute, name: str) -> str:
    return reverse(f"admin:billing_{row._meta.model_name}_deed", args=[row.pk, name])


def payus_notice(market: Market, payment: Payment) -> int:
    body = (
        f'{{"event":"dispute","cb_id":"4711","cb_status":"open","txn_id":"{payment.gateway_payment_id}","amount":"1499.50"}}'
    ).encode()
    url = f"{market.url}/api/payment/webhook/payu?token={PAYU_TOKEN}"
    return post(url, body, {"content-type": "application/json"})


def test_payus_dispute_is_listed_and_noted_by_hand(market_of: MarketOf) -> None:
    market = market_of("payu")
    payment = quota(market)
    status = payus_notice(market, payment)
    market.queue.work()
    row = GatewayWebhook.objects.get(subject="dispute")
    clerk = operator("view_payment", "view_dispute", "add_dispute", "change_dispute")
    wish = {"gateway_dispute_id": "4711", "amount": "1499.50", "reason": "PayU's letter"}

    asked = clerk.post(deed(payment, "dispute"), {**wish, "reason": ""})
    done = clerk.post(deed(payment, "dispute"), wish)
    dispute = Dispute.objects.get()
    ended = clerk.post(deed(dispute, "lost"), {"reason": "PayU's second letter"})

    dispute.refresh_from_db()
    assert (status, row.state, row.note, row.payment) == (
        200,
        "failed",
        "dispute 4711: look at the gateway's console",
        payment,
    )
    assert (asked.status_code, done.status_code, ended.status_code) == (200, 302, 302)
    assert (dispute.state, dispute.gateway_dispute_id, market.live_plan()) == ("lost", "4711", "free")
    told = Event.objects.filter(kind__startswith="dispute.").order_by("pk")
    assert list(told.values_list("kind", "reason", "actor_label")) == [
        ("dispute.opened", "PayU's letter", "operator@example.com"),
        ("dispute.lost", "PayU's second letter", "operator@example.com"),
    ]


@pytest.mark.parametrize("name", ["lost", "won"])
def test_how_a_dispute_ends_takes_a_right(market_of: MarketOf, name: str) -> None:
    market = market_of("payu")
    payment = quota(market)
    dispute = noted(payment)
    clerk: Client = operator("view_payment", "view_dispute")

    noting = clerk.post(deed(payment, "dispute"), {"gateway_dispute_id": "2", "amount": "1", "reason": "x"})
    ending = clerk.post(deed(dispute, name), {"reason": "x"})

    assert (noting.status_code, ending.status_code, Dispute.objects.get().state) == (403, 403, "open")
