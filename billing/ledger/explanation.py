"""Why a call cost what it did: from tokens, other units and prices to credits, line by line, with the figures of that time."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from iafactory.common.money import ZERO, credits_for_cost, plain, usd_quantise

from .models import LedgerEntry, LedgerTransaction, Lot, UsageRecord

ENDED = {
    UsageRecord.End.COMPLETE: "Complete.",
    UsageRecord.End.CLIENT_GONE: "The client hung up; what was delivered is charged.",
    UsageRecord.End.UPSTREAM_DROPPED: "The provider broke off; what was delivered is charged.",
    UsageRecord.End.PROVIDER_ERROR: "The provider failed and nothing was delivered; nothing is charged.",
    UsageRecord.End.REFUSED: "Refused before anything was delivered; nothing is charged.",
    UsageRecord.End.PROCESS_DIED: "It was cut off on our side; nothing is charged.",
}
_PRICE_NAMES = (
    "input_per_mtok",
    "cached_input_per_mtok",
    "cache_write_per_mtok",
    "cache_write_1h_per_mtok",
    "output_per_mtok",
    "reasoning_output_per_mtok",
)
_MILLION = Decimal(1_000_000)
# How a price for so many units is said.
_PER = {1: "", 1000: " a thousand", 3600: " an hour"}
# What is billed beside the tokens of the text around it; every other unit covers them.
_BESIDE_TOKENS = "images"


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """A price beside tokens: `usd` for every `per` of a unit, of which `count` were billed."""

    unit: str
    count: Decimal
    per: int
    usd: Decimal

    @property
    def cost_usd(self) -> Decimal:
        return self.count * self.usd / self.per


@dataclass(frozen=True, slots=True)
class LotDebit:
    """Credits that a call took out of a lot."""

    lot: Lot
    credits: Decimal


@dataclass(frozen=True, slots=True)
class Balances:
    """A wallet around a call, and the lots that paid it."""

    before: Decimal
    after: Decimal
    debits: tuple[LotDebit, ...]


def balances_of(usage: UsageRecord) -> Balances:
    """What the books say of a call; one that cost nothing left the balance as the entry before it."""
    entry = LedgerEntry.objects.filter(transaction=usage.pk, ledger_account=usage.account_id, unit="credit").first()
    if entry is None or entry.balance_after is None:
        booked = LedgerTransaction.objects.filter(pk=usage.pk).values_list("at", flat=True).first() or usage.finished_at
        earlier = LedgerEntry.objects.filter(ledger_account=usage.account_id, transaction__at__lte=booked)
        balance = earlier.order_by("-id").values_list("balance_after", flat=True).first() or ZERO
        return Balances(balance, balance, ())
    lots = Lot.objects.in_bulk(entry.lot_ids or [])
    debits = zip(entry.lot_ids or [], entry.lot_amounts or [], strict=True)
    return Balances(
        entry.balance_after - entry.amount,
        entry.balance_after,
        tuple(LotDebit(lots[lot_id], amount) for lot_id, amount in debits),
    )


def ended(usage: UsageRecord) -> str:
    """How a call ended, in words."""
    if usage.error_code == "hold_released":
        return "The service gave its hold back; nothing is charged."
    if usage.price.get("late"):
        return "Complete; charged after its hold's time was over."
    return ENDED[UsageRecord.End(usage.end)]


def markup(usage: UsageRecord) -> tuple[Decimal, Decimal, str] | None:
    """Margin multiplier, USD per credit and rounding of a call that was priced by its list cost; None for others."""
    facts = usage.price
    if not facts.get("charged"):
        return None
    return Decimal(facts["margin_multiplier"]), Decimal(facts["usd_per_credit"]), facts["rounding"]


def prices(usage: UsageRecord) -> dict[str, Decimal]:
    """USD for a million tokens of each kind, as the list had it then."""
    return {name.removesuffix("_per_mtok"): Decimal(usage.price[name]) for name in _PRICE_NAMES if name in usage.price}


def units(usage: UsageRecord) -> dict[str, Decimal] | None:
    """What was billed, or made, beside tokens: `{"images": 2}`."""
    return {name: plain(Decimal(str(count))) for name, count in usage.units.items()} if usage.units else None


def unit_prices(usage: UsageRecord) -> list[UnitPrice]:
    """Prices of images, characters, seconds and clips that the call was charged at."""
    return [
        UnitPrice(str(line["unit"]), Decimal(line["count"]), int(line["per"]), Decimal(line["usd"]))
        for line in usage.price.get("unit_prices", ())
    ]


def counts_tokens(usage: UsageRecord) -> bool:
    """Whether tokens are part of the price: not where a unit covers them."""
    return all(line.unit == _BESIDE_TOKENS for line in unit_prices(usage))


def arithmetic(usage: UsageRecord) -> list[str]:
    """The charge, step by step; the last line is what was charged."""
    lines = _service_lines(usage) if _by_service(usage) else _token_lines(usage)
    if usage.quota_units:
        lines.append(f"Counted as {usage.quota_units} of the plan's requests")
    return [*lines, f"Charged: {plain(usage.credits_charged)} credits"]


def _by_service(usage: UsageRecord) -> bool:
    return "request_id" in usage.price


def _service_lines(usage: UsageRecord) -> list[str]:
    facts = usage.price
    lines = []
    if "credits_per_unit" in facts:
        total = plain(Decimal(facts["units"]) * Decimal(facts["credits_per_unit"]))
        lines.append(f"{facts['units']} × {facts['credits_per_unit']} credits ({facts['service']}) = {total} credits")
    elif "credits" in facts:
        lines.append(f"{facts['credits']} credits set aside by the service")
    if "settled_credits" in facts:
        lines.append(f"It came to {facts['settled_credits']} credits")
        if usage.credits_charged < Decimal(facts["settled_credits"]):
            lines.append("No more than the balance covered is charged")
    return lines


def _token_lines(usage: UsageRecord) -> list[str]:
    lines = _list_cost_lines(usage)
    facts = markup(usage)
    if facts is None or not usage.list_cost_usd:
        return lines
    margin, usd_per_credit, rounding = facts
    raw = usage.list_cost_usd * margin / usd_per_credit
    price = credits_for_cost(
        usage.list_cost_usd, margin_multiplier=margin, usd_per_credit=usd_per_credit, whole=rounding == "whole"
    )
    how = "whole credits, at least 1" if rounding == "whole" else "6 decimal places, at least 0.000001"
    lines += [
        f"{plain(usage.list_cost_usd)} USD × {plain(margin)} ÷ {plain(usd_per_credit)} USD a credit = {plain(raw)} credits",
        f"Rounded half up to {how}: {plain(price)} credits",
    ]
    if usage.credits_charged == 0 and usage.end != UsageRecord.End.COMPLETE:
        lines.append("Nothing was delivered")
    elif usage.credits_charged < price:
        lines.append("No more than the balance covered is charged")
    return lines


def _unit_line(line: UnitPrice) -> str:
    unit = line.unit.removesuffix("s") if line.count == 1 else line.unit
    per = _PER.get(line.per, f" for {line.per}")
    return f"{plain(line.count)} {unit} × {plain(line.usd)} USD{per} = {plain(usd_quantise(line.cost_usd))} USD"


def _list_cost_lines(usage: UsageRecord) -> list[str]:
    by_units = unit_prices(usage)
    lines = [_unit_line(line) for line in by_units]
    total = sum((line.cost_usd for line in by_units), ZERO)
    if counts_tokens(usage):
        token_lines, tokens_usd = _token_cost_lines(usage, total)
        lines += token_lines
        total += tokens_usd
    if not lines:
        return []
    if usd_quantise(total) != usage.list_cost_usd:
        lines.append(f"List cost as it was booked: {plain(usage.list_cost_usd)} USD")
    elif len(lines) > 1:
        lines.append(f"List cost: {plain(usage.list_cost_usd)} USD")
    return lines


def _token_cost_lines(usage: UsageRecord, units_usd: Decimal) -> tuple[list[str], Decimal]:
    """A line for each kind of token that has a price, and their sum; `units_usd` is what the rest of the call cost."""
    known = prices(usage)
    p_in, p_out = known.get("input"), known.get("output")
    parts: list[tuple[str, int, Decimal]] = []
    write = long = None
    if p_in is not None:
        write = known.get("cache_write", p_in)
        long = known.get("cache_write_1h", write)
        fresh = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
        parts += [
            ("input tokens", fresh, p_in),
            ("cached input tokens", usage.cache_read_tokens, known.get("cached_input", p_in)),
            ("tokens written to the cache", usage.cache_write_tokens, write),
        ]
    if p_out is not None:
        parts += [
            ("output tokens", usage.output_tokens - usage.reasoning_tokens, p_out),
            ("reasoning tokens", usage.reasoning_tokens, known.get("reasoning_output", p_out)),
        ]
    total = sum((max(count, 0) * price for _, count, price in parts), ZERO) / _MILLION
    if write is not None and long is not None and long != write and usd_quantise(units_usd + total) != usage.list_cost_usd:
        # The row counts both lives of written tokens together: the cost tells how many were written for an hour.
        count = int(((usage.list_cost_usd - units_usd - total) * _MILLION / (long - write)).to_integral_value())
        if 0 < count <= usage.cache_write_tokens:
            parts[2:3] = [
                ("tokens written to the cache", usage.cache_write_tokens - count, write),
                ("tokens written to the cache for an hour", count, long),
            ]
            total += count * (long - write) / _MILLION
    lines = [
        f"{count} {name} × {plain(price)} USD a million = {plain(count * price / _MILLION)} USD"
        for name, count, price in parts
        if count > 0
    ]
    return lines, total


def price_body(usage: UsageRecord) -> dict[str, Any]:
    """The prices of that time as JSON."""
    facts = usage.price
    per_unit, units = facts.get("credits_per_unit"), facts.get("units")
    return {
        "version": facts.get("price_id"),
        "usd_per_million_tokens": {name: plain(price) for name, price in prices(usage).items()},
        "unit_prices": [{"unit": line.unit, "per": line.per, "usd": plain(line.usd)} for line in unit_prices(usage)],
        "credits_per_unit": None if per_unit is None else Decimal(per_unit),
        "units": None if units is None else Decimal(units),
    }
