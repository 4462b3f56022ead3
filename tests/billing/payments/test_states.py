"""Every pair of a payment's states: what the table allows happens, the rest is refused and changes nothing."""

import itertools
from decimal import Decimal

import pytest

from billing.accounts.models import Account
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.payments.models import Payment
from billing.payments.services import PaymentMoveRefused, payment_move, payment_succeeded
from iafactory.common import clock
from iafactory.common.errors import ApiError
from tests.billing.subscriptions.selling import wrong
from tests.factories import account_make

ENDS = [state for state in Payment.State.values if state != "succeeded"]
PAIRS = [pair for pair in itertools.product(Payment.State.values, ENDS) if pair[0] != pair[1]]
ALLOWED = [(state, to) for state, to in PAIRS if to in Payment.MOVES[state]]
REFUSED = [pair for pair in PAIRS if pair not in ALLOWED]


@pytest.fixture
def account(db: None) -> Account:
    return account_make()


def payment_in(account: Account, state: str) -> Payment:
    received = {"received_amount": Decimal(10), "paid_at": clock.now()} if state == "succeeded" else {}
    return Payment.objects.create(
        account=account, purpose="topup", gateway="manual", state=state, amount=Decimal(10), currency="DZD", **received
    )


@pytest.mark.parametrize(("state", "to"), ALLOWED)
def test_allowed_move(account: Account, state: str, to: str) -> None:
    payment = payment_move(payment=payment_in(account, state), to=to, actor=SYSTEM, reason="test")

    assert payment.state == to
    assert Event.objects.get(kind=f"payment.{to}").before == {"state": state}


@pytest.mark.parametrize(("state", "to"), REFUSED)
def test_refused_move(account: Account, state: str, to: str) -> None:
    payment = payment_in(account, state)

    with pytest.raises(PaymentMoveRefused):
        payment_move(payment=payment, to=to, actor=SYSTEM)

    payment.refresh_from_db()
    assert payment.state == state
    assert not Event.objects.filter(object_type="payment").exists()


@pytest.mark.parametrize("state", [state for state in Payment.State.values if "succeeded" in Payment.MOVES[state]])
def test_money_is_money_whatever_was_thought_of_it(account: Account, state: str) -> None:
    payment = payment_succeeded(payment=payment_in(account, state), actor=SYSTEM)

    assert (payment.state, payment.unapplied_amount) == ("succeeded", Decimal(10))
    assert wrong() == []


def test_other_money_than_was_asked_for_moves_nothing(account: Account) -> None:
    with pytest.raises(ApiError) as refused:
        payment_succeeded(payment=payment_in(account, "pending"), actor=SYSTEM, currency="USD")

    assert refused.value.code == "payment_currency_differs"
    assert Payment.objects.get().state == "pending"
    assert wrong() == []
