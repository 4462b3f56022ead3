"""Stamp duty on payments in cash (Algeria: droit de timbre de quittance), from brackets that are data with a validity."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

from .rounding import money_quantise
from .tax import TAXES_FILE


@dataclass(frozen=True, slots=True)
class StampBracket:
    """Amounts up to `up_to` (included; None: all above) pay `per_step` for each step or part of a step."""

    up_to: Decimal | None
    per_step: Decimal


@dataclass(frozen=True, slots=True)
class StampDuty:
    """The duty of one country and currency from `valid_from` (included) to `valid_until` (excluded); amounts in `currency`.

    Brackets ascend; the one an amount falls into applies to all of it.
    """

    country: str
    currency: str
    step: Decimal
    brackets: tuple[StampBracket, ...]
    exempt_up_to: Decimal = Decimal(0)
    minimum: Decimal = Decimal(0)
    maximum: Decimal | None = None
    valid_from: date = date.min
    valid_until: date | None = None

    def valid_on(self, day: date) -> bool:
        return self.valid_from <= day and (self.valid_until is None or day < self.valid_until)


def stamp_duty_compute(duties: Iterable[StampDuty], *, country: str, currency: str, amount: Decimal, on: date) -> Decimal:
    """Duty on `amount` (tax included) of a document paid in cash on the day `on`, in `currency`; zero where none is due.

    Never ask for other means of payment: transfers, cards and cheques are free of it. The duty is no part of any tax base.
    """
    for duty in duties:
        if (duty.country, duty.currency) == (country, currency) and duty.valid_on(on):
            return _due(duty, amount)
    return money_quantise(Decimal(0), currency)


def _due(duty: StampDuty, amount: Decimal) -> Decimal:
    if amount <= duty.exempt_up_to:
        return money_quantise(Decimal(0), duty.currency)
    bracket = next(bracket for bracket in duty.brackets if bracket.up_to is None or amount <= bracket.up_to)
    due = max(ceil(Fraction(amount) / Fraction(duty.step)) * bracket.per_step, duty.minimum)
    if duty.maximum is not None:
        due = min(due, duty.maximum)
    return money_quantise(due, duty.currency)


def shipped_stamp_duties(path: Path = TAXES_FILE) -> tuple[StampDuty, ...]:
    """The duties of the shipped file: a start, to be confirmed by the operator's accountant."""
    return tuple(stamp_duty_read(entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["stamp_duty"])


def stamp_duty_read(entry: Mapping[str, Any]) -> StampDuty:
    """A duty from its plain form. ValueError when the brackets do not ascend to one without an end."""
    brackets = tuple(
        StampBracket(Decimal(part["up_to"]) if "up_to" in part else None, Decimal(part["per_step"]))
        for part in entry["brackets"]
    )
    ends = [bracket.up_to for bracket in brackets]
    limits = [end for end in ends[:-1] if end is not None]
    if ends[-1] is not None or len(limits) != len(ends) - 1 or limits != sorted(set(limits)):
        raise ValueError("stamp duty brackets must ascend, and only the last has no end")
    return StampDuty(
        country=entry["country"],
        currency=entry["currency"],
        step=Decimal(entry["step"]),
        brackets=brackets,
        exempt_up_to=Decimal(entry.get("exempt_up_to", 0)),
        minimum=Decimal(entry.get("minimum", 0)),
        maximum=Decimal(entry["maximum"]) if "maximum" in entry else None,
        valid_from=entry.get("valid_from", date.min),
        valid_until=entry.get("valid_until"),
    )
