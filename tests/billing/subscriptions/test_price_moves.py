"""Running subscriptions moved to a price to come: each with its first period in which it is in force, told once, stoppable."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from freezegun.api import FrozenDateTimeFactory

from billing.accounts.models import Account
from billing.events.models import Event
from billing.notices.crossings import prices_notice
from billing.notices.models import CustomerNotice
from billing.subscriptions import jobs
from billing.subscriptions.models import PriceMove
from billing.subscriptions.price_migration import price_move_begin, price_move_stop, price_moves_run
from iafactory.common import clock
from iafactory.common.errors import ApiError
from tests.billing.subscriptions.selling import OPERATOR, live, open_invoice, pay, plan_make, price_make, subscribe, wrong
from tests.factories import account_make

APRIL = datetime(2026, 4, 1, tzinfo=UTC)


def test_a_price_to_come_waits_for_the_period_in_which_it_is_in_force(customer: Account, time: FrozenDateTimeFactory) -> None:
    pro = plan_make("pro", "3000")
    subscribe(customer, pro)
    raised = price_make(pro, "4000", at=APRIL)
    move = price_move_begin(price=raised, actor=OPERATOR, reason="costs rose")

    january = price_moves_run()
    time.move_to("2026-02-25T12:00:00Z")
    jobs.renewals_run()
    march = open_invoice(customer)
    at_old_price = march.total
    pay(march)
    time.move_to("2026-03-01T12:00:00Z")
    jobs.renewals_run()
    before_the_day = price_moves_run()
    time.move_to("2026-03-28T12:00:00Z")
    still_none = price_moves_run()
    jobs.renewals_run()
    april = open_invoice(customer)
    end_of_march = live(customer).current_period_end
    pay(april)
    time.move_to("2026-04-02T12:00:00Z")
    jobs.renewals_run()
    moved = price_moves_run()
    time.move_to("2026-04-28T12:00:00Z")
    jobs.renewals_run()

    move.refresh_from_db()
    assert end_of_march == datetime(2026, 3, 31, 12, tzinfo=UTC)
    assert (january, before_the_day, still_none, moved) == (0, 0, 0, 1)
    assert (at_old_price, april.total, open_invoice(customer).total) == (Decimal(3000), Decimal(3000), Decimal(4000))
    assert (move.moved, move.is_stopped, move.finished_at) == (1, False, datetime(2026, 4, 2, 12, tzinfo=UTC))
    assert list(Event.objects.filter(kind__startswith="price_move.").order_by("at").values_list("kind", flat=True)) == [
        "price_move.begun",
        "price_move.finished",
    ]
    assert wrong() == []


def test_a_price_at_once_moves_everybody_and_is_done(customer: Account) -> None:
    pro = plan_make("pro", "3000")
    subscribe(customer, pro)
    subscribe(account_make(), pro)
    move = price_move_begin(price=price_make(pro, "4000", at=clock.now()), actor=OPERATOR, reason="costs rose")

    moved, again = price_moves_run(), price_moves_run()

    move.refresh_from_db()
    assert (moved, again) == (2, 0)
    assert (move.moved, move.finished_at) == (2, clock.now())
    assert live(customer).next_price_id == move.price_id


def test_one_move_of_a_plan_and_currency_at_a_time_until_it_is_stopped(customer: Account) -> None:
    pro = plan_make("pro", "3000")
    subscribe(customer, pro)
    first = price_move_begin(price=price_make(pro, "4000", at=APRIL), actor=OPERATOR, reason="costs rose")
    later = price_make(pro, "5000", at=datetime(2026, 6, 1, tzinfo=UTC))

    with pytest.raises(ApiError) as refused:
        price_move_begin(price=later, actor=OPERATOR, reason="more")
    again = price_move_begin(price=first.price, actor=OPERATOR, reason="twice")
    price_move_stop(move=first, actor=OPERATOR, reason="a mistake")
    second = price_move_begin(price=later, actor=OPERATOR, reason="more")

    first.refresh_from_db()
    assert (refused.value.code, again.pk, again.reason) == ("price_move_open", first.pk, "costs rose")
    assert (first.is_stopped, first.finished_at) == (True, clock.now())
    assert PriceMove.objects.get(finished_at__isnull=True) == second
    assert Event.objects.get(kind="price_move.stopped").reason == "a mistake"


def test_no_reason_no_move(customer: Account) -> None:
    price = price_make(plan_make("pro", "3000"), "4000", at=APRIL)

    with pytest.raises(ApiError) as refused:
        price_move_begin(price=price, actor=OPERATOR, reason="  ")

    assert refused.value.param == "reason"
    assert PriceMove.objects.count() == 0


def test_customers_are_told_once_of_the_price_to_come(customer: Account) -> None:
    pro = plan_make("pro", "3000")
    subscribe(customer, pro)
    price_move_begin(price=price_make(pro, "4000", at=clock.now()), actor=OPERATOR, reason="costs rose")
    before = prices_notice(now=clock.now())
    price_moves_run()

    told, again = prices_notice(now=clock.now()), prices_notice(now=clock.now())

    notice = CustomerNotice.objects.get()
    assert (before, told, again) == (0, 1, 0)
    assert (notice.account, notice.kind, notice.level, notice.is_mailed) == (customer, "price_change", "planned", True)
    assert notice.facts == {
        "plan": pro.name,
        "before": "3000 DZD",
        "after": "4000 DZD",
        "changes_at": "2026-02-28T12:00:00+00:00",
    }
