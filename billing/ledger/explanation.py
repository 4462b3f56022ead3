"""Why a call cost what it did: from tokens, other units and prices to credits, line by line, with the figures of that time."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from iafactory.common.money import ZERO, credits_for_cost, plain, usd_quantise
from iafactory.common.texts import Text

from .models import LedgerEntry, LedgerTransaction, Lot, UsageRecord

ENDED = {
    UsageRecord.End.COMPLETE: Text("Complete."),
    UsageRecord.End.CLIENT_GONE: Text("The client hung up; what was delivered is charged."),
    UsageRecord.End.UPSTREAM_DROPPED: Text("The provider broke off; what was delivered is charged."),
    UsageRecord.End.PROVIDER_ERROR: Text("The provider failed and nothing was delivered; nothing is charged."),
    UsageRecord.End.REFUSED: Text("Refused before anything was delivered; nothing is charged."),
    UsageRecord.End.PROCESS_DIED: Text("It was cut off on our side; nothing is charged."),
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
_PER: dict[int, Text | str] = {1: "", 1000: Text(" a thousand"), 3600: Text(" an hour")}
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
    """How a call ended, in the reader's words."""
    if usage.error_code == "hold_released":
        return Text("The service gave its hold back; nothing is charged.").translated()
    if usage.price.get("late"):
        return Text("Complete; charged after its hold's time was over.").translated()
    return ENDED[UsageRecord.End(usage.end)].translated()


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
    """The charge, step by step, in the reader's language; the last line is what was charged."""
    lines = _service_lines(usage) if _by_service(usage) else _token_lines(usage)
    if usage.quota_units:
        lines.append(Text("Counted as %(units)s of the plan's requests", units=usage.quota_units))
    lines.append(Text("Charged: %(credits)s credits", credits=plain(usage.credits_charged)))
    return [line.translated() for line in lines]


def _by_service(usage: UsageRecord) -> bool:
    return "request_id" in usage.price


def _service_lines(usage: UsageRecord) -> list[Text]:
    facts = usage.price
    lines = []
    if "credits_per_unit" in facts:
        total = plain(Decimal(facts["units"]) * Decimal(facts["credits_per_unit"]))
        lines.append(
            Text(
                "%(units)s × %(each)s credits (%(service)s) = %(total)s credits",
                units=_figure(facts["units"]),
                each=_figure(facts["credits_per_unit"]),
                service=facts["service"],
                total=total,
            )
        )
    elif "credits" in facts:
        lines.append(Text("%(credits)s credits set aside by the service", credits=_figure(facts["credits"])))
    if "settled_credits" in facts:
        lines.append(Text("It came to %(credits)s credits", credits=_figure(facts["settled_credits"])))
        if usage.credits_charged < Decimal(facts["settled_credits"]):
            lines.append(Text("No more than the balance covered is charged"))
    return lines


def _figure(value: Any) -> Decimal:
    return Decimal(str(value))


def _token_lines(usage: UsageRecord) -> list[Text]:
    lines = _list_cost_lines(usage)
    facts = markup(usage)
    if facts is None or not usage.list_cost_usd:
        return lines
    margin, usd_per_credit, rounding = facts
    raw = usage.list_cost_usd * margin / usd_per_credit
    price = credits_for_cost(
        usage.list_cost_usd, margin_multiplier=margin, usd_per_credit=usd_per_credit, whole=rounding == "whole"
    )
    lines += [
        Text(
            "%(cost)s USD × %(margin)s ÷ %(usd)s USD a credit = %(credits)s credits",
            cost=plain(usage.list_cost_usd),
            margin=plain(margin),
            usd=plain(usd_per_credit),
            credits=plain(raw),
        ),
        Text("Rounded half up to whole credits, at least 1: %(credits)s credits", credits=plain(price))
        if rounding == "whole"
        else Text(
            "Rounded half up to 6 decimal places, at least %(least)s: %(credits)s credits",
            least=Decimal("0.000001"),
            credits=plain(price),
        ),
    ]
    if usage.credits_charged == 0 and usage.end != UsageRecord.End.COMPLETE:
        lines.append(Text("Nothing was delivered"))
    elif usage.credits_charged < price:
        lines.append(Text("No more than the balance covered is charged"))
    return lines


def _unit_line(line: UnitPrice) -> Text:
    return Text(
        "%(count)s %(unit)s × %(usd)s USD%(per)s = %(cost)s USD",
        count=plain(line.count),
        unit=_unit_name(line),
        usd=plain(line.usd),
        per=_PER.get(line.per, Text(" for %(per)s", per=line.per)),
        cost=plain(usd_quantise(line.cost_usd)),
    )


def _unit_name(line: UnitPrice) -> Text | str:
    names = {
        "images": Text("image", "images", count=line.count),
        "characters": Text("character", "characters", count=line.count),
        "seconds": Text("second", "seconds", count=line.count),
        "clips": Text("clip", "clips", count=line.count),
    }
    return names.get(line.unit) or (line.unit.removesuffix("s") if line.count == 1 else line.unit)


def _list_cost_lines(usage: UsageRecord) -> list[Text]:
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
        lines.append(Text("List cost as it was booked: %(cost)s USD", cost=plain(usage.list_cost_usd)))
    elif len(lines) > 1:
        lines.append(Text("List cost: %(cost)s USD", cost=plain(usage.list_cost_usd)))
    return lines


def _token_cost_lines(usage: UsageRecord, units_usd: Decimal) -> tuple[list[Text], Decimal]:
    """A line for each kind of token that has a price, and their sum; `units_usd` is what the rest of the call cost."""
    known = prices(usage)
    p_in, p_out = known.get("input"), known.get("output")
    parts: list[tuple[Text, int, Decimal]] = []
    write = long = None
    if p_in is not None:
        write = known.get("cache_write", p_in)
        long = known.get("cache_write_1h", write)
        fresh = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
        parts += [
            (Text("input tokens"), fresh, p_in),
            (Text("cached input tokens"), usage.cache_read_tokens, known.get("cached_input", p_in)),
            (Text("tokens written to the cache"), usage.cache_write_tokens, write),
        ]
    if p_out is not None:
        parts += [
            (Text("output tokens"), usage.output_tokens - usage.reasoning_tokens, p_out),
            (Text("reasoning tokens"), usage.reasoning_tokens, known.get("reasoning_output", p_out)),
        ]
    total = sum((max(count, 0) * price for _, count, price in parts), ZERO) / _MILLION
    if write is not None and long is not None and long != write and usd_quantise(units_usd + total) != usage.list_cost_usd:
        # The row counts both lives of written tokens together: the cost tells how many were written for an hour.
        count = int(((usage.list_cost_usd - units_usd - total) * _MILLION / (long - write)).to_integral_value())
        if 0 < count <= usage.cache_write_tokens:
            parts[2:3] = [
                (Text("tokens written to the cache"), usage.cache_write_tokens - count, write),
                (Text("tokens written to the cache for an hour"), count, long),
            ]
            total += count * (long - write) / _MILLION
    lines = [
        Text(
            "%(count)s %(name)s × %(price)s USD a million = %(cost)s USD",
            count=count,
            name=name,
            price=plain(price),
            cost=plain(count * price / _MILLION),
        )
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
