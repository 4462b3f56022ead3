"""Tax of an invoice: which rule applies to a sale, and what it comes to, line by line and in total.

Rules are data with a validity (`data/taxes.toml` ships the first ones); nothing here knows a rate. Pure arithmetic on
`Decimal` and `Fraction`: no models, no clock.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

from iafactory.common.texts import Text

from .rounding import apportion, is_quantised, minor_unit, money_quantise

TAXES_FILE = Path(__file__).parent / "data" / "taxes.toml"
STANDARD = "standard"
ANY_COUNTRY = "*"


class TaxScope(StrEnum):
    """The sales a rule is for."""

    DOMESTIC = "domestic"
    """Seller and customer in one country; where rules tell states apart, the next two."""
    INTRA_STATE = "intra_state"
    INTER_STATE = "inter_state"
    EXPORT = "export"
    EXPORT_TAXED = "export_taxed"
    """Abroad, by a seller without the undertaking that frees exports from tax (India: no LUT)."""
    REVERSE_CHARGE = "reverse_charge"
    """Abroad, to a business that owes the tax itself."""
    EXEMPT = "exempt"
    """A customer with an exemption."""
    NOT_REGISTERED = "not_registered"
    """The seller may not charge tax."""


@dataclass(frozen=True, slots=True)
class TaxComponent:
    """One tax of a rule; `rate` is a fraction (0.19 is 19 %), `label` what the invoice prints (TVA, CGST)."""

    code: str
    rate: Decimal
    label: str


@dataclass(frozen=True, slots=True)
class TaxRule:
    """What is charged on one kind of sale, from `valid_from` (included) to `valid_until` (excluded).

    Components are computed and rounded each on its own. `mention` is the sentence the law wants, by language (fr, ar, en).
    """

    country: str
    code: str
    scope: TaxScope
    label: str
    components: tuple[TaxComponent, ...] = ()
    mention: Mapping[str, str] = field(default_factory=dict, hash=False)
    category: str = STANDARD
    regions: tuple[str, ...] = ()
    valid_from: date = date.min
    valid_until: date | None = None

    @property
    def rate(self) -> Decimal:
        """All components together, a fraction."""
        return sum((component.rate for component in self.components), Decimal(0))

    def valid_on(self, day: date) -> bool:
        return self.valid_from <= day and (self.valid_until is None or day < self.valid_until)


@dataclass(frozen=True, slots=True)
class TaxSeller:
    """What the choice of a rule asks about the seller; `region` is the state code (India)."""

    country: str
    registered: bool
    region: str = ""
    exports_untaxed: bool = True


@dataclass(frozen=True, slots=True)
class TaxCustomer:
    """What the choice of a rule asks about the customer: `region` as the place of supply, `tax_id` when it is a business."""

    country: str
    region: str = ""
    tax_id: str = ""
    exempt: bool = False


class TaxRuleMissing(Exception):
    """No rule covers a sale; nothing is ever charged at a guessed rate. `told` says which rule is wanted."""

    def __init__(self, told: Text) -> None:
        super().__init__(told)
        self.told = told


@dataclass(frozen=True, slots=True)
class TaxableLine:
    """One line before tax: `amount` at the currency's minor unit, negative for a discount."""

    amount: Decimal
    rule: TaxRule
    tax_included: bool = True


@dataclass(frozen=True, slots=True)
class TaxAmount:
    """One component and what it comes to."""

    code: str
    label: str
    rate: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True)
class TaxedAmount:
    """A line, or all lines of one rule: `net + sum of taxes == gross`, to the minor unit."""

    rule: TaxRule
    net: Decimal
    taxes: tuple[TaxAmount, ...]
    gross: Decimal

    @property
    def tax(self) -> Decimal:
        return sum((tax.amount for tax in self.taxes), Decimal(0))


@dataclass(frozen=True, slots=True)
class TaxedInvoice:
    """All lines in the order given, the totals per rule in order of appearance, and the totals of everything."""

    lines: tuple[TaxedAmount, ...]
    totals: tuple[TaxedAmount, ...]
    net: Decimal
    tax: Decimal
    gross: Decimal


def place_of_supply(seller: TaxSeller, customer: TaxCustomer) -> str:
    """The state a domestic service is supplied in: the customer's, or the seller's when none is on record."""
    return customer.region or seller.region


def tax_rule_choose(
    rules: Iterable[TaxRule], *, seller: TaxSeller, customer: TaxCustomer, on: date, category: str = STANDARD
) -> TaxRule:
    """The rule for a sale of `category` made on the day `on`.

    A seller who is not registered charges nothing; then an exempt customer, then where the customer is. TaxRuleMissing
    when the data has no such rule, or two.
    """
    valid = [rule for rule in rules if rule.valid_on(on)]
    own = [rule for rule in valid if rule.country == seller.country]
    if not seller.registered:
        return _only(own, (TaxScope.NOT_REGISTERED,), category, "") or _required(
            [rule for rule in valid if rule.country == ANY_COUNTRY], (TaxScope.NOT_REGISTERED,), category, "", seller, on
        )
    if customer.exempt:
        return _required(own, (TaxScope.EXEMPT,), category, "", seller, on)
    if customer.country == seller.country:
        place = place_of_supply(seller, customer)
        by_state = TaxScope.INTRA_STATE if place == seller.region else TaxScope.INTER_STATE
        return _required(own, (by_state, TaxScope.DOMESTIC), category, place, seller, on)
    if customer.tax_id and (reverse := _only(own, (TaxScope.REVERSE_CHARGE,), category, customer.country)):
        return reverse
    scope = TaxScope.EXPORT if seller.exports_untaxed else TaxScope.EXPORT_TAXED
    return _required(own, (scope, TaxScope.EXPORT, TaxScope.DOMESTIC), category, customer.country, seller, on)


def _only(rules: Sequence[TaxRule], scopes: Sequence[TaxScope], category: str, region: str) -> TaxRule | None:
    """The rule of the first scope that has one; its category before the standard one, named regions before all others."""
    for scope in scopes:
        for wanted in dict.fromkeys((category, STANDARD)):
            found = [rule for rule in rules if rule.scope == scope and rule.category == wanted]
            named = [rule for rule in found if region and region in rule.regions]
            found = named or [rule for rule in found if not rule.regions]
            if len(found) > 1:
                raise TaxRuleMissing(
                    Text("Tax rules %(rules)s cover the same sale.", rules=", ".join(rule.code for rule in found))
                )
            if found:
                return found[0]
    return None


def _required(
    rules: Sequence[TaxRule], scopes: Sequence[TaxScope], category: str, region: str, seller: TaxSeller, on: date
) -> TaxRule:
    rule = _only(rules, scopes, category, region)
    if rule is None:
        raise TaxRuleMissing(
            Text(
                "No tax rule of %(country)s for %(scopes)s sales of %(category)s on %(on)s.",
                country=seller.country,
                scopes=" or ".join(scopes),
                category=repr(category),
                on=on,
            )
        )
    return rule


def taxes_compute(lines: Sequence[TaxableLine], *, currency: str) -> TaxedInvoice:
    """Net, taxes and gross of an invoice.

    Each component is computed once per rule on all its lines and rounded half away from zero; lines get their shares by
    largest remainder, so that they add up. Included tax: base = gross / (1 + rate). ValueError for an amount finer
    than the currency's minor unit.
    """
    unit = minor_unit(currency)
    taxed: dict[int, TaxedAmount] = {}
    totals: list[TaxedAmount] = []
    for rule in dict.fromkeys(line.rule for line in lines):
        positions = [position for position, line in enumerate(lines) if line.rule == rule]
        group = [lines[position] for position in positions]
        shares = _component_shares(group, rule, currency, unit)
        for index, position in enumerate(positions):
            taxed[position] = _taxed_line(group[index], [share[index] for share in shares], unit)
        totals.append(_sum([taxed[position] for position in positions]))
    return TaxedInvoice(
        lines=tuple(taxed[position] for position in range(len(lines))),
        totals=tuple(totals),
        net=sum((total.net for total in totals), Decimal(0)).quantize(unit),
        tax=sum((total.tax for total in totals), Decimal(0)).quantize(unit),
        gross=sum((total.gross for total in totals), Decimal(0)).quantize(unit),
    )


def _component_shares(group: Sequence[TaxableLine], rule: TaxRule, currency: str, unit: Decimal) -> list[list[Decimal]]:
    """Per component, the tax of each line of the group."""
    bases = []
    for line in group:
        if not is_quantised(line.amount, currency):
            raise ValueError(f"{line.amount} {currency} is finer than the currency's minor unit")
        amount = Fraction(line.amount)
        bases.append(amount / (1 + Fraction(rule.rate)) if line.tax_included else amount)
    shares = []
    for component in rule.components:
        exact = [base * Fraction(component.rate) for base in bases]
        total = money_quantise(sum(exact, Fraction(0)), currency)
        if len(rule.components) == 1 and all(line.tax_included for line in group):
            # The base is what is rounded; the tax is the rest, so that a half goes to the base.
            total = sum((line.amount for line in group), Decimal(0)) - money_quantise(sum(bases, Fraction(0)), currency)
        shares.append(apportion(total, exact, unit))
    return shares


def _taxed_line(line: TaxableLine, shares: Sequence[Decimal], unit: Decimal) -> TaxedAmount:
    taxes = tuple(
        TaxAmount(component.code, component.label, component.rate, share)
        for component, share in zip(line.rule.components, shares, strict=True)
    )
    tax = sum(shares, Decimal(0))
    net, gross = (line.amount - tax, line.amount) if line.tax_included else (line.amount, line.amount + tax)
    return TaxedAmount(line.rule, net.quantize(unit), taxes, gross.quantize(unit))


def _sum(lines: Sequence[TaxedAmount]) -> TaxedAmount:
    """All lines of one rule as one amount."""
    taxes = tuple(
        replace(lines[0].taxes[index], amount=sum((line.taxes[index].amount for line in lines), Decimal(0)))
        for index in range(len(lines[0].taxes))
    )
    net = sum((line.net for line in lines), Decimal(0))
    return TaxedAmount(lines[0].rule, net, taxes, sum((line.gross for line in lines), Decimal(0)))


def credit_share(line: TaxedAmount, *, gross: Decimal, credited_before: TaxedAmount | None, currency: str) -> TaxedAmount:
    """The part of an invoiced line that a credit note of `gross` takes back, at the line's own rate and rounding.

    Amounts are what is credited in total less what was before, so that parts add up to the line exactly when all of it is
    credited. ValueError when more than the line would be.
    """
    unit = minor_unit(currency)
    before = credited_before or replace(
        line, net=Decimal(0), gross=Decimal(0), taxes=tuple(replace(tax, amount=Decimal(0)) for tax in line.taxes)
    )
    together = before.gross + gross
    if not is_quantised(gross, currency) or abs(together) > abs(line.gross) or together * line.gross < 0 or not line.gross:
        raise ValueError(f"{gross} {currency} cannot be credited of {line.gross}, {before.gross} of which are credited")
    share = Fraction(together) / Fraction(line.gross)
    taxes = tuple(
        replace(tax, amount=money_quantise(Fraction(tax.amount) * share, currency) - earlier.amount)
        for tax, earlier in zip(line.taxes, before.taxes, strict=True)
    )
    net = gross - sum((tax.amount for tax in taxes), Decimal(0))
    return TaxedAmount(line.rule, net.quantize(unit), taxes, gross.quantize(unit))


def shipped_tax_rules(path: Path = TAXES_FILE) -> tuple[TaxRule, ...]:
    """The rules of the shipped file: a start, to be confirmed by the operator's accountant."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["tax_rule"]
    return tuple(tax_rule_read(entry) for entry in entries)


def tax_rule_read(entry: Mapping[str, Any]) -> TaxRule:
    """A rule from its plain form (TOML or JSON): rates as strings, dates as dates or ISO text."""
    fields = dict(entry)
    fields["scope"] = TaxScope(fields["scope"])
    fields["components"] = tuple(
        TaxComponent(part["code"], Decimal(part["rate"]), part.get("label", part["code"]))
        for part in fields.get("components", ())
    )
    fields["regions"] = tuple(fields.get("regions", ()))
    for name in ("valid_from", "valid_until"):
        if isinstance(fields.get(name), str):
            fields[name] = date.fromisoformat(fields[name])
    return TaxRule(**fields)


def tax_rule_write(rule: TaxRule) -> dict[str, Any]:
    """The plain form of a rule, as `tax_rule_read` takes it: for snapshots."""
    return {
        "country": rule.country,
        "code": rule.code,
        "scope": rule.scope.value,
        "label": rule.label,
        "components": [{"code": part.code, "rate": str(part.rate), "label": part.label} for part in rule.components],
        "mention": dict(rule.mention),
        "category": rule.category,
        "regions": list(rule.regions),
        "valid_from": rule.valid_from.isoformat(),
        "valid_until": None if rule.valid_until is None else rule.valid_until.isoformat(),
    }
