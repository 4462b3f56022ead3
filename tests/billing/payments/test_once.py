"""Money is booked once, however many hear of it at the same time."""

import threading
from decimal import Decimal

import pytest
from django.db import connection
from freezegun import freeze_time

from billing.accounts.models import Account
from billing.events.services import SYSTEM
from billing.invoices.models import Invoice
from billing.ledger.models import Lot
from billing.payments.models import Payment, PaymentAllocation
from billing.payments.services import payment_succeeded
from billing.subscriptions.models import Subscription
from tests.billing.subscriptions.conftest import START, customer, shop, time
from tests.billing.subscriptions.selling import attempt, begin, live, plan_make, wrong

__all__ = ("customer", "shop", "time")


def together(count: int, work: object) -> list[BaseException]:
    """Run `work` in `count` threads that begin at once; what they raised."""
    barrier = threading.Barrier(count)
    raised: list[BaseException] = []

    def run(number: int) -> None:
        barrier.wait()
        try:
            work(number)  # type: ignore[operator]
        except BaseException as error:
            raised.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.django_db(transaction=True)
def test_twenty_who_tell_of_one_payment_make_one_plan_and_one_lot(customer: Account) -> None:
    pro = plan_make("pro", "3000", billing_mode="credits", period_credits=500)
    payment = attempt(begin(customer, pro).to_pay)

    with freeze_time(START):
        raised = together(20, lambda number: payment_succeeded(payment=Payment.objects.get(pk=payment.pk), actor=SYSTEM))

    assert raised == []
    assert live(customer).plan == pro
    assert list(Lot.objects.values_list("amount", flat=True)) == [Decimal(500)]
    assert PaymentAllocation.objects.count() == 1
    assert list(Invoice.objects.values_list("number", flat=True)) == ["FAC-2026-000001"]
    assert wrong() == []


@pytest.mark.django_db(transaction=True)
def test_one_draft_paid_twice_at_once_begins_one_plan_and_keeps_the_surplus(customer: Account) -> None:
    draft = begin(customer, plan_make("pro", "3000")).to_pay
    payments = [attempt(draft), attempt(draft)]

    with freeze_time(START):
        raised = together(
            2, lambda number: payment_succeeded(payment=Payment.objects.get(pk=payments[number].pk), actor=SYSTEM)
        )

    assert raised == []
    assert sorted(Payment.objects.values_list("applied_amount", "unapplied_amount")) == [
        (Decimal(0), Decimal(3000)),
        (Decimal(3000), Decimal(0)),
    ]
    assert Subscription.objects.filter(account=customer, state="active").count() == 1
    assert wrong() == []
