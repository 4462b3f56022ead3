"""Payments that banks take back: told by gateways or noted by hand; a loss costs what the money bought, a win undoes it."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from pytest_django.fixtures import Settings

from billing.models import Dispute, Event, GatewayWebhook, Lot, Payment, Wallet
from billing.payments.disputes import dispute_lost, dispute_open, dispute_won
from billing.payments.manual import manual_confirm
from billing.payments.refunds import refund_ask, refund_request
from iafactory.common.errors import ApiError
from tests.billing.subscriptions.selling import OPERATOR, spend, wrong

from .market import Market, in_threads
from .test_refunds import booked

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)
DISPUTING = ["stripe", "paypal", "razorpay"]


def debt(market: Market) -> Decimal:
    return Wallet.objects.get(pk=market.account.pk).debt


def noted(payment: Payment) -> Dispute:
    return dispute_open(payment=payment, gateway_dispute_id="dp_1", actor=OPERATOR, reason="fraudulent")


def kinds() -> list[str]:
    return list(Event.objects.filter(kind__startswith="dispute.").order_by("pk").values_list("kind", flat=True))


@pytest.mark.parametrize("slug", DISPUTING)
def test_a_loss_takes_what_the_money_bought_and_leaves_the_spent_part_as_debt(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.paid(market.top_up())
    spend(market.account, "250")
    dispute_id = market.fake.open_dispute(payment.gateway_payment_id)
    market.deliver()
    assert (Dispute.objects.get().state, market.credits(), debt(market)) == ("open", Decimal(800), 0)

    market.fake.close_dispute(dispute_id, won=False)
    market.deliver(threads=5)

    payment.refresh_from_db()
    dispute = Dispute.objects.get()
    # The bonus of 50 burnt first, then 200 of the 1,000 bought.
    assert (dispute.state, dispute.gateway_dispute_id, dispute.amount) == ("lost", dispute_id, market.price)
    assert (market.credits(), debt(market), payment.refunded_amount) == (0, Decimal(200), market.price)
    assert (booked("cash", payment.currency), booked("refunds", payment.currency)) == (0, market.price)
    assert kinds() == ["dispute.opened", "dispute.lost"]
    assert set(GatewayWebhook.objects.filter(subject="dispute").values_list("state", flat=True)) == {"processed"}
    assert wrong() == []


@pytest.mark.parametrize("slug", DISPUTING)
def test_a_dispute_that_is_won_moves_nothing(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.paid(market.top_up())
    dispute_id = market.fake.open_dispute(payment.gateway_payment_id)
    market.deliver()

    market.fake.close_dispute(dispute_id, won=True)
    market.deliver()

    payment.refresh_from_db()
    assert (Dispute.objects.get().state, market.credits(), debt(market)) == ("won", Decimal(1050), 0)
    assert (payment.refunded_amount, booked("cash", payment.currency)) == (0, market.price)
    assert kinds() == ["dispute.opened", "dispute.won"]


def test_a_loss_that_is_given_back_restores_credits_and_forgives_the_debt(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.paid(market.top_up())
    spend(market.account, "30")
    dispute = dispute_lost(dispute=noted(payment), actor=OPERATOR, reason="bank letter")
    spent = debt(market)

    dispute = dispute_won(dispute=dispute, actor=OPERATOR, reason="appeal")

    payment.refresh_from_db()
    assert (spent, dispute.state, market.credits(), debt(market)) == (0, "won", Decimal(1020), 0)
    assert (payment.refunded_amount, booked("cash", "DZD"), booked("refunds", "DZD")) == (0, Decimal(2590), 0)
    assert wrong() == []


def test_a_debt_is_forgiven_with_the_win(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.paid(market.top_up())
    spend(market.account, "1000")
    dispute = dispute_lost(dispute=noted(payment), actor=OPERATOR, reason="bank letter")
    assert (market.credits(), debt(market)) == (0, Decimal(950))

    dispute_won(dispute=dispute, actor=OPERATOR, reason="appeal")

    assert (market.credits(), debt(market), wrong()) == (Decimal(50), 0, [])


def test_a_loss_of_part_takes_its_share(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.paid(market.top_up())
    dispute = dispute_open(payment=payment, gateway_dispute_id="dp_2", amount=Decimal(518), actor=OPERATOR)

    dispute_lost(dispute=dispute, actor=OPERATOR, reason="bank letter")

    # A fifth of 1,000 and of the bonus of 50.
    assert list(Lot.objects.order_by("amount").values_list("remaining", flat=True)) == [Decimal(40), Decimal(800)]
    assert (market.credits(), debt(market), wrong()) == (Decimal(840), 0, [])


def test_twenty_threads_lose_a_dispute_once(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.paid(market.top_up())
    spend(market.account, "250")

    in_threads([lambda: dispute_lost(dispute=noted(payment), actor=OPERATOR, reason="bank letter")] * 20)

    assert (Dispute.objects.count(), market.credits(), debt(market)) == (1, 0, Decimal(200))
    assert kinds() == ["dispute.opened", "dispute.lost"]
    assert wrong() == []


def test_money_without_an_invoice_is_taken_first(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    Payment.objects.filter(pk=payment.pk).update(gateway="manual")
    payment.refresh_from_db()
    payment = manual_confirm(payment=payment, actor=OPERATOR, reason="seen", received=Decimal(3000))
    dispute = dispute_open(payment=payment, gateway_dispute_id="dp_3", amount=Decimal(410), actor=OPERATOR)

    lost = dispute_lost(dispute=dispute, actor=OPERATOR, reason="bank letter")
    payment.refresh_from_db()
    after_loss = (payment.unapplied_amount, market.credits(), booked("cash", "DZD"), wrong())
    dispute_won(dispute=lost, actor=OPERATOR, reason="appeal")

    payment.refresh_from_db()
    assert after_loss == (0, Decimal(1050), Decimal(2590), [])
    assert (payment.unapplied_amount, booked("cash", "DZD"), wrong()) == (Decimal(410), Decimal(3000), [])


def test_nothing_is_refunded_while_a_bank_decides_nor_after_a_loss(market_of: MarketOf, settings: Settings) -> None:
    settings.REFUND_SECOND_OPERATOR_ABOVE_USD = None
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    dispute = noted(payment)

    with pytest.raises(ApiError) as meanwhile:
        refund_request(payment=payment, reason="asked", actor=OPERATOR)
    dispute_lost(dispute=dispute, actor=OPERATOR, reason="bank letter")
    with pytest.raises(ApiError) as after:
        refund_request(payment=payment, reason="asked", actor=OPERATOR)

    assert (meanwhile.value.code, after.value.code) == ("payment_disputed", "payment_not_refundable")
    assert len(market.fake.refunds) == 0


def test_a_refunded_part_and_a_lost_rest_take_everything_once(market_of: MarketOf, settings: Settings) -> None:
    settings.REFUND_SECOND_OPERATOR_ABOVE_USD = None
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    refund = refund_request(payment=payment, amount=Decimal("9.95"), reason="asked", actor=OPERATOR)
    refund_ask(refund_id=refund.pk)
    dispute = dispute_open(payment=payment, gateway_dispute_id="dp_4", amount=Decimal("9.95"), actor=OPERATOR)

    dispute_lost(dispute=dispute, actor=OPERATOR, reason="bank letter")

    assert (market.credits(), debt(market), booked("cash", "USD"), wrong()) == (0, 0, 0, [])


def test_what_was_won_is_not_lost_any_more(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.paid(market.top_up())
    dispute = dispute_won(dispute=noted(payment), actor=OPERATOR, reason="bank letter")

    with pytest.raises(ApiError) as refused:
        dispute_lost(dispute=dispute, actor=OPERATOR, reason="late")

    assert (refused.value.code, market.credits()) == ("dispute_move_refused", Decimal(1050))
