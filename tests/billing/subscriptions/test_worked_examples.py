"""Twenty examples of proration, discounts, tax, rounding and stamp duty, each with its arithmetic."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest

from billing.invoices.lines import LineItem, PricedInvoice, items_price
from billing.invoices.stamp_duty import shipped_stamp_duties, stamp_duty_compute
from billing.invoices.tax import TaxRule, shipped_tax_rules
from billing.plans.models import Coupon
from billing.subscriptions.pricing import discount_of, prorate

DAY = date(2026, 3, 31)
HOUR = Fraction(1, 24)
RULES = {rule.code: rule for rule in shipped_tax_rules()}


def rule_named(code: str) -> TaxRule:
    return RULES[code]


def bill(
    rule: str, amounts: Sequence[str], *, currency: str = "DZD", included: bool = True, whole: bool = False, cash: bool = False
) -> PricedInvoice:
    """An invoice of these amounts under one rule; negative ones are discounts."""

    def stamp(amount: Decimal) -> Decimal:
        return stamp_duty_compute(shipped_stamp_duties(), country="DZ", currency="DZD", amount=amount, on=DAY)

    items = [LineItem(kind="plan", description="x", amount=Decimal(amount), tax_included=included) for amount in amounts]
    return items_price(
        items, rule_of=lambda category: rule_named(rule), currency=currency, whole_units=whole, stamp_of=stamp if cash else None
    )


def figures(priced: PricedInvoice) -> tuple[str, str, str, str, str]:
    """Net, tax, rounding, stamp duty and total."""
    parts = (priced.net, priced.tax, priced.rounding, priced.stamp, priced.total)
    return tuple(f"{part:.2f}" for part in parts)  # type: ignore[return-value]


TAX = [
    # 1. 11900 / 1.19 = 10000; 11900 - 10000 = 1900.
    (bill("dz-standard", ["11900"]), ("10000.00", "1900.00", "0.00", "0.00", "11900.00")),
    # 2. 100 / 1.19 = 84.0336…: 84.03; 100 - 84.03 = 15.97.
    (bill("dz-standard", ["100"]), ("84.03", "15.97", "0.00", "0.00", "100.00")),
    # 3. Without tax in the price: 333.33 * 0.19 = 63.3327: 63.33; 333.33 + 63.33 = 396.66.
    (bill("dz-standard", ["333.33"], included=False), ("333.33", "63.33", "0.00", "0.00", "396.66")),
    # 4. The reduced rate: 1090 / 1.09 = 1000; 90.
    (bill("dz-reduced", ["1090"]), ("1000.00", "90.00", "0.00", "0.00", "1090.00")),
    # 5. Once per rate, not per line: 3 * 33.33 = 99.99; / 1.19 = 84.0252…: 84.03 (line by line it were 3 * 28.01 = 84.03);
    #    99.99 - 84.03 = 15.96.
    (bill("dz-standard", ["33.33", "33.33", "33.33"]), ("84.03", "15.96", "0.00", "0.00", "99.99")),
    # 6. A discount of a quarter lowers base and tax: 2250 / 1.19 = 1890.7563…: 1890.76; 2250 - 1890.76 = 359.24.
    (bill("dz-standard", ["3000", "-750"]), ("1890.76", "359.24", "0.00", "0.00", "2250.00")),
    # 7. Not registered: nothing is added, nothing taken out.
    (bill("not-registered", ["2590"]), ("2590.00", "0.00", "0.00", "0.00", "2590.00")),
    # 8. Whole dinars for a gateway without centimes: 2995.84 + 0.16 = 2996; the tax is that of 2995.84:
    #    2995.84 / 1.19 = 2517.5126…: 2517.51; 2995.84 - 2517.51 = 478.33.
    (bill("dz-standard", ["2995.84"], whole=True), ("2517.51", "478.33", "0.16", "0.00", "2996.00")),
    # 9. A half goes away from zero: 100.50 + 0.50 = 101; 100.50 / 1.19 = 84.4537…: 84.45; 16.05.
    (bill("dz-standard", ["100.50"], whole=True), ("84.45", "16.05", "0.50", "0.00", "101.00")),
    # 10. Cash: 2590 is 25.9 hundreds, so 26 begun at 1 dinar; beside the tax base: 2590 / 1.19 = 2176.4705…: 2176.47.
    (bill("dz-standard", ["2590"], cash=True), ("2176.47", "413.53", "0.00", "26.00", "2616.00")),
    # 11. Cash above 30,000: 301 hundreds begun at 1.50 = 451.50, on all of it: 30001 / 1.19 = 25210.9243…: 25210.92.
    (bill("dz-standard", ["30001"], cash=True), ("25210.92", "4790.08", "0.00", "451.50", "30452.50")),
    # 12. India within the state: CGST and SGST each 333.33 * 0.09 = 29.9997: 30.00.
    (
        bill("in-intra-state", ["333.33"], currency="INR", included=False),
        ("333.33", "60.00", "0.00", "0.00", "393.33"),
    ),
    # 13. India into another state: IGST 333.33 * 0.18 = 59.9994: 60.00; rounded off to the rupee: 393.33 - 0.33.
    (
        bill("in-inter-state", ["333.33"], currency="INR", included=False, whole=True),
        ("333.33", "60.00", "-0.33", "0.00", "393.00"),
    ),
]


@pytest.mark.parametrize(("priced", "expected"), TAX, ids=[f"example {number}" for number in range(1, len(TAX) + 1)])
def test_tax_rounding_and_stamp_duty(priced: PricedInvoice, expected: tuple[str, ...]) -> None:
    assert figures(priced) == expected


def change(new: str, left: Fraction, whole: Fraction, old: str, unspent: Fraction = Fraction(1)) -> tuple[str, str, str]:
    """Charge, unused and net of a change within a period, the old plan having run from its start."""
    share = left / whole
    found = prorate(
        new_amount=Decimal(new),
        new_share=share,
        old_value=Decimal(old),
        time_share=share,
        unspent_share=unspent,
        currency="DZD",
    )
    return f"{found.charge:.2f}", f"{found.unused:.2f}", f"{found.net:.2f}"


PRORATION = [
    # 14. Half of 28 days: 6000 / 2 - 3000 / 2.
    (change("6000", Fraction(14), Fraction(28), "3000"), ("3000.00", "1500.00", "1500.00")),
    # 15. 719 of 720 hours: 6000 * 719 / 720 = 5991.666…: 5991.67; 3000 * 719 / 720 = 2995.833…: 2995.83.
    (change("6000", 719 * HOUR, 720 * HOUR, "3000"), ("5991.67", "2995.83", "2995.84")),
    # 16. Half of the time left but only a fifth of the credits: 5000 / 2 - 2000 / 5.
    (change("5000", Fraction(14), Fraction(28), "2000", Fraction(1, 5)), ("2500.00", "400.00", "2100.00")),
    # 17. Cheaper: 3000 / 4 - 6000 / 4 is money in hand.
    (change("3000", Fraction(7), Fraction(28), "6000"), ("750.00", "1500.00", "-750.00")),
    # 18. A third of an uneven price: 2590 / 3 = 863.333…: 863.33; of 1590 paid less a coupon of 10 %, 1431 / 3 = 477.
    (change("2590", Fraction(10), Fraction(30), "1431"), ("863.33", "477.00", "386.33")),
]


@pytest.mark.parametrize(("found", "expected"), PRORATION, ids=[f"example {number}" for number in range(14, 19)])
def test_proration(found: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert found == expected


DISCOUNTS = [
    # 19. 12.5 % of 1590 = 198.75; 33.33 % of 0.05 = 0.016665: 0.02, a half and more away from zero.
    (
        [
            discount_of(Decimal(1590), Coupon(kind="percent", percent=Decimal("12.5")), "DZD"),
            discount_of(Decimal("0.05"), Coupon(kind="percent", percent=Decimal("33.33")), "DZD"),
        ],
        [Decimal("198.75"), Decimal("0.02")],
    ),
    # 20. A fixed 5000 takes no more than the price of 2590, and nothing in another currency.
    (
        [
            discount_of(Decimal(2590), Coupon(kind="fixed", amount=Decimal(5000), currency="DZD"), "DZD"),
            discount_of(Decimal(2590), Coupon(kind="fixed", amount=Decimal(5000), currency="USD"), "DZD"),
        ],
        [Decimal(2590), Decimal(0)],
    ),
]


@pytest.mark.parametrize(("found", "expected"), DISCOUNTS, ids=["example 19", "example 20"])
def test_discounts(found: list[Decimal], expected: list[Decimal]) -> None:
    assert found == expected
