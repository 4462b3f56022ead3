"""Tax: which rule applies, and what it comes to. Each example carries its arithmetic."""

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.invoices.tax import (
    TaxableLine,
    TaxAmount,
    TaxComponent,
    TaxCustomer,
    TaxedAmount,
    TaxRule,
    TaxRuleMissing,
    TaxScope,
    TaxSeller,
    credit_share,
    shipped_tax_rules,
    tax_rule_choose,
    tax_rule_read,
    tax_rule_write,
    taxes_compute,
)

RULES = shipped_tax_rules()
BY_CODE = {rule.code: rule for rule in RULES}
TVA19, TVA9, TVA0 = BY_CODE["dz-standard"], BY_CODE["dz-reduced"], BY_CODE["dz-zero"]
INTRA, INTER = BY_CODE["in-intra-state"], BY_CODE["in-inter-state"]
NONE = BY_CODE["not-registered"]
TODAY = date(2026, 11, 20)
ALGERIAN = TaxSeller(country="DZ", registered=True)
INDIAN = TaxSeller(country="IN", registered=True, region="27")


def lines(rule: TaxRule, *amounts: str, included: bool = True) -> list[TaxableLine]:
    return [TaxableLine(Decimal(amount), rule, included) for amount in amounts]


def figures(amount: TaxedAmount) -> tuple[str, list[str], str]:
    return str(amount.net), [str(tax.amount) for tax in amount.taxes], str(amount.gross)


@pytest.mark.parametrize(
    ("given_lines", "shares", "net", "tax", "gross"),
    [
        pytest.param(
            # 11,900.00 / 1.19 = 10,000.00
            lines(TVA19, "11900.00"),
            [("10000.00", ["1900.00"], "11900.00")],
            *("10000.00", "1900.00", "11900.00"),
            id="TVA included",
        ),
        pytest.param(
            # 10,000.00 * 0.19 = 1,900.00
            lines(TVA19, "10000.00", included=False),
            [("10000.00", ["1900.00"], "11900.00")],
            *("10000.00", "1900.00", "11900.00"),
            id="TVA added",
        ),
        pytest.param(
            # 1,590.00 / 1.19 = 1,336.1344... -> 1,336.13; the rest is tax: 253.87
            lines(TVA19, "1590.00"),
            [("1336.13", ["253.87"], "1590.00")],
            *("1336.13", "253.87", "1590.00"),
            id="the student plan",
        ),
        pytest.param(
            # Once for both: 0.20 / 1.19 = 0.168 -> 0.17, tax 0.03 (each alone would give 0.02). Each line owes 0.01596...;
            # one cent each by its whole part, the third cent to the first of equals.
            lines(TVA19, "0.10", "0.10"),
            [("0.08", ["0.02"], "0.10"), ("0.09", ["0.01"], "0.10")],
            *("0.17", "0.03", "0.20"),
            id="rounded once per rate, not per line",
        ),
        pytest.param(
            # 3 * 33.33 * 0.19 = 18.9981 -> 19.00; each line owes 6.3327: 6.33 by its whole part, one cent left.
            lines(TVA19, "33.33", "33.33", "33.33", included=False),
            [("33.33", ["6.34"], "39.67"), ("33.33", ["6.33"], "39.66"), ("33.33", ["6.33"], "39.66")],
            *("99.99", "19.00", "118.99"),
            id="shares by largest remainder",
        ),
        pytest.param(
            # A discount of 10 % lowers the base: (2,590.00 - 259.00) / 1.19 = 1,958.8235 -> 1,958.82, tax 372.18;
            # lines: 2,590.00 * 0.19/1.19 = 413.5294, -259.00 * 0.19/1.19 = -41.3529. Floors 413.52 and -41.36 leave
            # two cents, one each: 413.53 and -41.35.
            lines(TVA19, "2590.00", "-259.00"),
            [("2176.47", ["413.53"], "2590.00"), ("-217.65", ["-41.35"], "-259.00")],
            *("1958.82", "372.18", "2331.00"),
            id="discount line",
        ),
        pytest.param(
            # A discount of everything: nothing is owed, and the line's share goes both ways.
            lines(TVA19, "2590.00", "-2590.00"),
            [("2176.47", ["413.53"], "2590.00"), ("-2176.47", ["-413.53"], "-2590.00")],
            *("0.00", "0.00", "0.00"),
            id="discount of everything",
        ),
        pytest.param(
            # 119.00 / 1.19 = 100.00; 109.00 / 1.09 = 100.00; 50.00 at 0 %
            [*lines(TVA19, "119.00"), *lines(TVA9, "109.00"), *lines(TVA0, "50.00")],
            [("100.00", ["19.00"], "119.00"), ("100.00", ["9.00"], "109.00"), ("50.00", ["0.00"], "50.00")],
            *("250.00", "28.00", "278.00"),
            id="three rates",
        ),
        pytest.param(
            # 1,000.00 * 0.09 = 90.00 twice
            lines(INTRA, "1000.00", included=False),
            [("1000.00", ["90.00", "90.00"], "1180.00")],
            *("1000.00", "180.00", "1180.00"),
            id="CGST and SGST",
        ),
        pytest.param(
            # 333.33 * 0.09 = 29.9997 -> 30.00 each; half of a rounded 18 % would be the same, but see the next one
            lines(INTRA, "333.33", included=False),
            [("333.33", ["30.00", "30.00"], "393.33")],
            *("333.33", "60.00", "393.33"),
            id="CGST equals SGST",
        ),
        pytest.param(
            # 0.50 * 0.09 = 0.045 -> 0.05 each; 18 % of 0.50 would be 0.09, which has no equal halves
            lines(INTRA, "0.50", included=False),
            [("0.50", ["0.05", "0.05"], "0.60")],
            *("0.50", "0.10", "0.60"),
            id="each component rounded on its own",
        ),
        pytest.param(
            # 333.33 * 0.18 = 59.9994 -> 60.00
            lines(INTER, "333.33", included=False),
            [("333.33", ["60.00"], "393.33")],
            *("333.33", "60.00", "393.33"),
            id="IGST",
        ),
        pytest.param(
            # 100.00 / 1.18 = 84.7457...; * 0.09 = 7.6271 -> 7.63 each; the base is the rest: 100.00 - 15.26
            lines(INTRA, "100.00"),
            [("84.74", ["7.63", "7.63"], "100.00")],
            *("84.74", "15.26", "100.00"),
            id="CGST and SGST included",
        ),
        pytest.param(
            lines(NONE, "1590.00", "-90.00"),
            [("1590.00", [], "1590.00"), ("-90.00", [], "-90.00")],
            *("1500.00", "0.00", "1500.00"),
            id="seller not registered",
        ),
        pytest.param([], [], "0.00", "0.00", "0.00", id="no lines"),
        pytest.param(
            # Included and added together, once: 119.00 / 1.19 + 50.00 = 150.00; * 0.19 = 28.50
            [*lines(TVA19, "119.00"), *lines(TVA19, "50.00", included=False)],
            [("100.00", ["19.00"], "119.00"), ("50.00", ["9.50"], "59.50")],
            *("150.00", "28.50", "178.50"),
            id="included and added",
        ),
    ],
)
def test_worked_examples(
    given_lines: list[TaxableLine], shares: list[tuple[str, list[str], str]], net: str, tax: str, gross: str
) -> None:
    invoice = taxes_compute(given_lines, currency="DZD")

    assert [figures(line) for line in invoice.lines] == shares
    assert (str(invoice.net), str(invoice.tax), str(invoice.gross)) == (net, tax, gross)


def test_a_half_of_an_included_tax_goes_to_the_base() -> None:
    twenty = TaxRule("FR", "fr", TaxScope.DOMESTIC, "TVA", (TaxComponent("TVA", Decimal("0.20"), "TVA"),))

    # 0.03 / 1.20 = 0.025 -> 0.03, which leaves no tax; 0.15 / 1.20 = 0.125 -> 0.13 and 0.02
    invoices = [taxes_compute(lines(twenty, amount), currency="EUR") for amount in ("0.03", "0.15", "-0.15")]

    assert [figures(invoice.lines[0]) for invoice in invoices] == [
        ("0.03", ["0.00"], "0.03"),
        ("0.13", ["0.02"], "0.15"),
        ("-0.13", ["-0.02"], "-0.15"),
    ]


def test_a_currency_without_minor_units_is_taxed_in_whole_ones() -> None:
    invoice = taxes_compute(lines(TVA19, "1000"), currency="JPY")

    assert figures(invoice.lines[0]) == ("840", ["160"], "1000")


def test_totals_name_their_taxes() -> None:
    invoice = taxes_compute(lines(INTRA, "100.00", "0.50", included=False), currency="INR")

    # 100.50 * 0.09 = 9.045 -> 9.05
    assert invoice.totals[0].taxes == (
        TaxAmount("CGST", "CGST", Decimal("0.09"), Decimal("9.05")),
        TaxAmount("SGST", "SGST", Decimal("0.09"), Decimal("9.05")),
    )


def test_an_amount_finer_than_the_minor_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="finer"):
        taxes_compute(lines(TVA19, "1.001"), currency="DZD")


@given(
    amounts=st.lists(st.tuples(st.integers(-(10**7), 10**7), st.sampled_from(RULES), st.booleans()), max_size=20),
)
def test_whatever_the_lines_everything_adds_up_and_mirrors(amounts: list[tuple[int, TaxRule, bool]]) -> None:
    given_lines = [TaxableLine(Decimal(cents) / 100, rule, included) for cents, rule, included in amounts]

    invoice = taxes_compute(given_lines, currency="DZD")

    mirror = taxes_compute([replace(line, amount=-line.amount) for line in given_lines], currency="DZD")
    assert all(line.net + line.tax == line.gross for line in (*invoice.lines, *invoice.totals))
    assert invoice.net + invoice.tax == invoice.gross == sum(line.gross for line in invoice.lines)
    assert all(
        line.amount == (taxed.gross if line.tax_included else taxed.net)
        for line, taxed in zip(given_lines, invoice.lines, strict=True)
    )
    assert [(line.net, line.gross) for line in mirror.lines] == [(-line.net, -line.gross) for line in invoice.lines]


@given(cents=st.integers(-(10**7), 10**7), included=st.booleans())
def test_cgst_and_sgst_are_equal_whatever_the_amount(cents: int, included: bool) -> None:
    invoice = taxes_compute([TaxableLine(Decimal(cents) / 100, INTRA, included)] * 3, currency="INR")

    assert [line.taxes[0].amount for line in invoice.lines] == [line.taxes[1].amount for line in invoice.lines]


@pytest.mark.parametrize(
    ("seller", "customer", "category", "code"),
    [
        (ALGERIAN, TaxCustomer("DZ"), "standard", "dz-standard"),
        (ALGERIAN, TaxCustomer("DZ"), "reduced", "dz-reduced"),
        (ALGERIAN, TaxCustomer("DZ"), "zero", "dz-zero"),
        (ALGERIAN, TaxCustomer("DZ"), "hosting", "dz-standard"),
        (ALGERIAN, TaxCustomer("DZ", exempt=True), "standard", "dz-exempt"),
        (ALGERIAN, TaxCustomer("FR"), "standard", "dz-export"),
        (ALGERIAN, TaxCustomer("FR", tax_id="FR40303265045"), "standard", "dz-reverse-charge"),
        (TaxSeller("DZ", registered=False), TaxCustomer("DZ"), "standard", "not-registered"),
        (TaxSeller("DZ", registered=False), TaxCustomer("FR", tax_id="X"), "reduced", "not-registered"),
        (TaxSeller("FR", registered=False), TaxCustomer("FR"), "standard", "not-registered"),
        (INDIAN, TaxCustomer("IN", region="27"), "standard", "in-intra-state"),
        (INDIAN, TaxCustomer("IN", region="29"), "standard", "in-inter-state"),
        # No state on record: supplied where the seller is.
        (INDIAN, TaxCustomer("IN"), "standard", "in-intra-state"),
        (TaxSeller("IN", registered=True, region="04"), TaxCustomer("IN", region="04"), "standard", "in-intra-territory"),
        (TaxSeller("IN", registered=True, region="07"), TaxCustomer("IN", region="07"), "standard", "in-intra-state"),
        (INDIAN, TaxCustomer("IN", region="04"), "standard", "in-inter-state"),
        (INDIAN, TaxCustomer("US"), "standard", "in-export"),
        (replace(INDIAN, exports_untaxed=False), TaxCustomer("US"), "standard", "in-export-taxed"),
    ],
)
def test_the_rule_follows_seller_customer_and_category(
    seller: TaxSeller, customer: TaxCustomer, category: str, code: str
) -> None:
    rule = tax_rule_choose(RULES, seller=seller, customer=customer, on=TODAY, category=category)

    assert rule.code == code


def test_a_sale_no_rule_covers_is_refused_rather_than_guessed() -> None:
    with pytest.raises(TaxRuleMissing, match="No tax rule of FR for intra_state or domestic sales"):
        tax_rule_choose(RULES, seller=TaxSeller("FR", registered=True), customer=TaxCustomer("FR"), on=TODAY)


def test_two_rules_for_one_sale_are_refused() -> None:
    twin = replace(TVA19, code="dz-standard-again")

    with pytest.raises(TaxRuleMissing, match="dz-standard, dz-standard-again cover the same sale"):
        tax_rule_choose([*RULES, twin], seller=ALGERIAN, customer=TaxCustomer("DZ"), on=TODAY)


def test_a_rate_changes_on_its_day() -> None:
    old = replace(TVA19, valid_until=date(2027, 1, 1))
    new = replace(TVA19, code="dz-2027", valid_from=date(2027, 1, 1))

    chosen = [
        tax_rule_choose([old, new], seller=ALGERIAN, customer=TaxCustomer("DZ"), on=day).code
        for day in (date(2026, 12, 31), date(2027, 1, 1))
    ]

    assert chosen == ["dz-standard", "dz-2027"]


def test_parts_of_a_credit_add_up_to_the_line() -> None:
    invoiced = taxes_compute(lines(TVA19, "100.00"), currency="DZD").lines[0]

    # Of 84.03 + 15.97: a third is 5.3233 tax -> 5.32; two thirds 10.6479 -> 10.65, less 5.32; the rest 15.97 - 10.65.
    first = credit_share(invoiced, gross=Decimal("33.33"), credited_before=None, currency="DZD")
    second = credit_share(invoiced, gross=Decimal("33.34"), credited_before=first, currency="DZD")
    both = replace(
        first,
        net=first.net + second.net,
        gross=first.gross + second.gross,
        taxes=(replace(first.taxes[0], amount=first.taxes[0].amount + second.taxes[0].amount),),
    )
    third = credit_share(invoiced, gross=Decimal("33.33"), credited_before=both, currency="DZD")

    assert [figures(part) for part in (first, second, third)] == [
        ("28.01", ["5.32"], "33.33"),
        ("28.01", ["5.33"], "33.34"),
        ("28.01", ["5.32"], "33.33"),
    ]


def test_a_whole_credit_is_the_line() -> None:
    invoiced = taxes_compute(lines(INTRA, "100.00"), currency="INR").lines[0]

    assert credit_share(invoiced, gross=Decimal("100.00"), credited_before=None, currency="INR") == invoiced


@pytest.mark.parametrize("gross", ["100.01", "-0.01", "0.001"])
def test_no_more_than_the_line_can_be_credited(gross: str) -> None:
    invoiced = taxes_compute(lines(TVA19, "100.00"), currency="DZD").lines[0]

    with pytest.raises(ValueError, match="cannot be credited"):
        credit_share(invoiced, gross=Decimal(gross), credited_before=None, currency="DZD")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_survives_being_written_and_read(rule: TaxRule) -> None:
    assert tax_rule_read(tax_rule_write(rule)) == rule


def test_every_shipped_mention_is_in_three_languages() -> None:
    assert {tuple(rule.mention) for rule in RULES if rule.mention} == {("fr", "ar", "en")}
