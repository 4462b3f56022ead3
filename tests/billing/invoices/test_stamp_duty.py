"""Stamp duty on cash: the circular's own figures."""

from datetime import date
from decimal import Decimal

import pytest

from billing.invoices.stamp_duty import shipped_stamp_duties, stamp_duty_compute, stamp_duty_read

DUTIES = shipped_stamp_duties()
ENTRY = {"country": "DZ", "currency": "DZD", "step": "100"}


def duty(amount: str, on: date = date(2026, 11, 20), country: str = "DZ", currency: str = "DZD") -> str:
    return str(stamp_duty_compute(DUTIES, country=country, currency=currency, amount=Decimal(amount), on=on))


@pytest.mark.parametrize(
    ("amount", "due"),
    [
        ("0", "0.00"),
        ("300", "0.00"),
        # 4 steps of 1 DA, raised to the minimum
        ("300.01", "5.00"),
        ("301", "5.00"),
        ("1000", "10.00"),
        ("11900", "119.00"),
        ("11901", "120.00"),
        ("30000", "300.00"),
        # 301 steps of 1.5 DA: the rate of the bracket applies to all of it
        ("30001", "451.50"),
        ("100000", "1500.00"),
        ("100001", "2002.00"),
        ("950000", "19000.00"),
    ],
)
def test_the_duty_since_2025(amount: str, due: str) -> None:
    assert duty(amount) == due


def test_the_law_of_the_day_counts() -> None:
    assert duty("2000000", date(2024, 12, 31)) == "10000.00"
    assert duty("2000000", date(2025, 1, 1)) == "40000.00"


def test_no_duty_where_no_law_asks_for_it() -> None:
    assert duty("1000", country="IN", currency="INR") == "0.00"
    assert duty("1000", currency="EUR") == "0.00"


@pytest.mark.parametrize(
    "brackets",
    [
        [{"up_to": "100", "per_step": "1"}],
        [{"per_step": "1"}, {"per_step": "2"}],
        [{"up_to": "200", "per_step": "1"}, {"up_to": "100", "per_step": "2"}, {"per_step": "3"}],
    ],
)
def test_brackets_that_leave_amounts_out_are_refused(brackets: list[dict[str, str]]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        stamp_duty_read(ENTRY | {"brackets": brackets})
