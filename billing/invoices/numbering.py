"""Numbers of invoices and credit notes: gapless per seller, kind and the seller's fiscal year, in the order of their dates."""

from dataclasses import dataclass
from datetime import date, datetime

from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .models import Invoice, NumberSeries, SellerProfile

# India, rule 46: at most 16 characters of letters, digits, - and /.
INDIAN_LENGTH = 16
APRIL = 4


@dataclass(frozen=True, slots=True)
class TakenNumber:
    """A number with everything that was decided under the series' lock."""

    number: str
    fiscal_year: int
    sequence: int
    issue_date: date
    issued_at: datetime


def fiscal_year_of(country: str, day: date) -> int:
    """The calendar year in which the fiscal year of `day` begins: January in Algeria, April in India."""
    return day.year - 1 if country == "IN" and day.month < APRIL else day.year


def number_text(*, country: str, prefix: str, fiscal_year: int, sequence: int) -> str:
    """How a number is printed: `FAC-2026-000042`, in India `SUI/26-27/000015`.

    ApiError 409 `number_too_long` where the law of India allows no longer one.
    """
    if country == "IN":
        years = f"{fiscal_year % 100:02}-{(fiscal_year + 1) % 100:02}"
        text = "/".join(part for part in (prefix, years, f"{sequence:06}") if part)
        if len(text) > INDIAN_LENGTH:
            raise ApiError(
                409,
                "number_too_long",
                Text("%(text)s is longer than %(limit)s characters: shorten the prefix.", text=text, limit=INDIAN_LENGTH),
            )
        return text
    return "-".join(part for part in (prefix, str(fiscal_year), f"{sequence:06}") if part)


def number_take(*, seller: SellerProfile, kind: str) -> TakenNumber:
    """The next number of a series, today's; the series stays locked until the transaction ends, so none is ever lost.

    A date never lies before that of the number before, even when clocks of two machines differ.
    """
    series = _locked(seller, kind, clock.now().astimezone(seller.zone).date())
    issued_at = clock.now()
    today = issued_at.astimezone(seller.zone).date()
    if fiscal_year_of(seller.country, today) != series.fiscal_year:  # the year turned while we waited
        series = _locked(seller, kind, today)
    issue_date = today if series.last_date is None else max(today, series.last_date)
    prefix = seller.credit_note_prefix if kind == Invoice.Kind.CREDIT_NOTE else seller.invoice_prefix
    taken = TakenNumber(
        number=number_text(country=seller.country, prefix=prefix, fiscal_year=series.fiscal_year, sequence=series.next_number),
        fiscal_year=series.fiscal_year,
        sequence=series.next_number,
        issue_date=issue_date,
        issued_at=issued_at,
    )
    series.next_number += 1
    series.last_date = issue_date
    series.save(update_fields=["next_number", "last_date"])
    return taken


def _locked(seller: SellerProfile, kind: str, day: date) -> NumberSeries:
    year = fiscal_year_of(seller.country, day)
    named = NumberSeries.objects.filter(seller=seller.code, kind=kind, fiscal_year=year)
    series = named.select_for_update(no_key=True).first()
    if series is None:
        NumberSeries.objects.bulk_create([NumberSeries(seller=seller.code, kind=kind, fiscal_year=year)], ignore_conflicts=True)
        series = named.select_for_update(no_key=True).get()
    return series
