"""What the lists that can be imported mean: how a line is found again, compared with what is here, and written by a service."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from django.db import models
from django.utils.translation import gettext as _

from billing.events.services import Actor
from billing.plans.models import Plan, PlanPrice, plan_price_at
from billing.plans.services import PLAN_FIELDS, plan_change, plan_create, plan_price_add
from iafactory.common.errors import ApiError
from routing.models import ModelPrice, ModelProfile, model_price_at
from routing.price_import.reading import COLUMNS as PRICE_COLUMNS
from routing.provider_setup import Price, model_price_create

from .reading import FileRefused, Table, is_formula, plain_digits, unescaped

NEW, CHANGED, UNCHANGED, REFUSED = "new", "changed", "unchanged", "refused"
_NUMBER = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?\Z")
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


class RowRefused(Exception):
    """A line cannot be written; the message says why."""


@dataclass(slots=True)
class Line:
    """What a line of the file would do."""

    number: int
    key: str
    state: str
    differences: list[tuple[str, str, str]] = field(default_factory=list)
    """Field, before, after."""
    reason: str = ""

    def told(self) -> list[Any]:
        return [self.number, self.key, self.state, [list(one) for one in self.differences], self.reason]


@dataclass(frozen=True, slots=True)
class Writing:
    """Who writes, why, and when: one instant for all lines that say none."""

    actor: Actor
    reason: str
    now: datetime


Cells = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ListKind:
    """A list that can be imported. `write` compares a line with what is here, writes what differs and says what it was."""

    name: str
    columns: tuple[str, ...]
    ignored: tuple[str, ...]
    """Columns of our own export that are not read."""
    needed: tuple[tuple[str, ...], ...]
    """Of each group one column must be there."""
    key: Callable[[Cells], tuple[str, ...]]
    write: Callable[[Cells, Writing], Line]


def columns_check(kind: ListKind, table: Table) -> None:
    """Raises FileRefused for columns that are not those of the list."""
    known = {*kind.columns, *kind.ignored}
    if unknown := [column for column in table.columns if column not in known]:
        told = {"columns": ", ".join(unknown[:5]), "known": ", ".join(kind.columns)}
        raise FileRefused(_("Unknown columns: %(columns)s. Known are: %(known)s") % told)
    for group in kind.needed:
        if not set(group) & set(table.columns):
            raise FileRefused(_("The column %s is missing.") % " / ".join(group))


def lines_write(kind: ListKind, table: Table, writing: Writing) -> list[Line]:
    """Write each line through its service, in the caller's transaction; of a refused one nothing is written."""
    found: list[Line] = []
    seen: dict[tuple[str, ...], int] = {}
    for number, raw in table.rows:
        try:
            cells = {name: _checked(name, raw[name]) for name in kind.columns if name in raw}
            key = kind.key(cells)
            if key in seen:
                raise RowRefused(_("Line %s is about the same.") % seen[key])
            seen[key] = number
            line = kind.write(cells, writing)
            line.number = number
        except RowRefused as error:
            line = Line(number, _name(raw), REFUSED, reason=str(error))
        except ApiError as error:
            line = Line(number, _name(raw), REFUSED, reason=f"{error.param}: {error.text}" if error.param else error.text)
        found.append(line)
    return found


def _name(raw: Cells) -> str:
    shown = [raw.get(name, "") for name in ("code", "plan", "plan_id", "profile", "profile_id", "currency")]
    return " ".join(filter(None, shown))[:100]


def _checked(name: str, cell: str) -> str:
    if is_formula(cell):
        raise RowRefused(_("%s: a formula is not read; paste its value.") % name)
    return unescaped(cell)


# --- Cells ---


def _decimal(name: str, text: str) -> Decimal | None:
    plain = plain_digits(text)
    if not plain:
        return None
    if not _NUMBER.match(plain):
        raise RowRefused(
            _("%(name)s: “%(text)s” is no number; write a point before decimals and nothing between thousands.")
            % {"name": name, "text": text[:40]}
        )
    try:
        return Decimal(plain)
    except InvalidOperation:
        raise RowRefused(_("%(name)s: “%(text)s” is no number.") % {"name": name, "text": text[:40]}) from None


def _boolean(name: str, text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise RowRefused(_("%(name)s: “%(text)s” is neither true nor false.") % {"name": name, "text": text[:40]})


def _instant(name: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(plain_digits(text).replace("Z", "+00:00"))
    except ValueError:
        told = {"name": name, "text": text[:40]}
        raise RowRefused(_("%(name)s: “%(text)s” is no instant such as 2026-12-31T00:00:00Z.") % told) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _json(name: str, text: str, kind: type) -> Any:
    try:
        found = json.loads(text) if text else kind()
    except (ValueError, RecursionError):
        raise RowRefused(_("%s: this is not JSON.") % name) from None
    if not isinstance(found, kind):
        raise RowRefused(_("%s: this is not JSON of the right kind.") % name)
    return found


def _told(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case Decimal():
            return f"{value.normalize():f}" if value else "0"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


# --- Plans ---


def _plan_value(name: str, text: str) -> Any:
    column = Plan._meta.get_field(name)
    assert isinstance(column, models.Field)
    if name == "features":
        found = _json(name, text, list)
        if not all(isinstance(item, str) for item in found):
            raise RowRefused(_("%s: a list of texts is expected.") % name)
        return found
    if isinstance(column, models.BooleanField):
        return _boolean(name, text)
    if isinstance(column, models.DecimalField | models.IntegerField):
        number = _decimal(name, text)
        if number is None:
            if not column.null:
                raise RowRefused(_("%s: a number is missing.") % name)
            return None
        if isinstance(column, models.IntegerField):
            if number != number.to_integral_value():
                raise RowRefused(_("%s: a whole number is expected.") % name)
            return int(number)
        return number
    return text


def _plan_write(cells: Cells, writing: Writing) -> Line:
    code = cells["code"]
    if not code:
        raise RowRefused(_("%s is missing.") % "code")
    values = {name: _plan_value(name, cells[name]) for name in PLAN_FIELDS if name in cells}
    plan = Plan.objects.filter(code=code).first()
    if plan is None:
        plan_create(code=code, values=values, actor=writing.actor, reason=writing.reason)
        return Line(0, code, NEW, [(name, "", _told(value)) for name, value in values.items() if _told(value)])
    before = {name: getattr(plan, name) for name in values}
    plan = plan_change(plan=plan, values=values, actor=writing.actor, reason=writing.reason)
    changes = [
        (name, _told(before[name]), _told(getattr(plan, name))) for name in values if before[name] != getattr(plan, name)
    ]
    return Line(0, code, CHANGED if changes else UNCHANGED, changes)


PLANS = ListKind(
    name="plan",
    columns=("code", *PLAN_FIELDS),
    ignored=("id", "only_account_id", "created_at", "updated_at"),
    needed=(("code",),),
    key=lambda cells: (cells["code"].lower(),),
    write=_plan_write,
)


# --- Prices of plans ---


def _row_of(model: Any, name: str, by: str, cells: Cells) -> Any:
    """What a line is about: by its own name, else by the number that our list has."""
    named, numbered = cells.get(name, ""), plain_digits(cells.get(f"{name}_id", ""))
    if named:
        found = model.objects.filter(**{by: named}).first()
    elif numbered.isdigit() and len(numbered) < 18:
        found = model.objects.filter(pk=int(numbered)).first()
    else:
        raise RowRefused(_("%s is missing.") % name)
    if found is None:
        raise RowRefused(_("%(name)s: there is no %(text)s.") % {"name": name, "text": (named or numbered)[:60]})
    return found


def _price_key(name: str) -> Callable[[Cells], tuple[str, ...]]:
    def key(cells: Cells) -> tuple[str, ...]:
        at = _instant("effective_from", cells.get("effective_from", ""))
        # The same number as a name and as an id is about the same only where both say so.
        about = cells.get(name, "") or "#" + plain_digits(cells.get(f"{name}_id", ""))
        return (about, cells.get("currency", "").upper(), "" if at is None else at.isoformat())

    return key


def _plan_price_write(cells: Cells, writing: Writing) -> Line:
    plan: Plan = _row_of(Plan, "plan", "code", cells)
    currency = cells["currency"].upper()
    amount = _decimal("amount", cells["amount"])
    if amount is None:
        raise RowRefused(_("%s is missing.") % "amount")
    tax_included = _boolean("tax_included", cells["tax_included"]) if cells.get("tax_included") else True
    overage = _decimal("overage_amount", cells.get("overage_amount", ""))
    at = _instant("effective_from", cells.get("effective_from", ""))
    wanted = {"amount": amount, "tax_included": tax_included, "overage_amount": overage}
    key = f"{plan.code} {currency}"
    standing = PlanPrice.objects.filter(plan=plan, currency=currency, effective_from=at).first() if at else None
    present = standing or plan_price_at(plan, currency, at or writing.now)
    changes = _changes(present, wanted)
    if standing is not None and changes:
        raise RowRefused(_("A price is never changed: give the new one a later instant."))
    if not changes:
        return Line(0, key, UNCHANGED)
    plan_price_add(
        plan=plan,
        currency=currency,
        amount=amount,
        tax_included=tax_included,
        overage_amount=overage,
        effective_from=at,
        actor=writing.actor,
        reason=writing.reason,
    )
    return Line(0, key, NEW if present is None else CHANGED, [*changes, *_from(at)])


def _changes(present: Any, wanted: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    before = {name: "" if present is None else _told(getattr(present, name)) for name in wanted}
    return [(name, before[name], _told(value)) for name, value in wanted.items() if before[name] != _told(value)]


def _from(at: datetime | None) -> list[tuple[str, str, str]]:
    return [("effective_from", "", _("at once") if at is None else _told(at))]


PLAN_PRICES = ListKind(
    name="planprice",
    columns=("plan", "plan_id", "currency", "amount", "tax_included", "overage_amount", "effective_from"),
    ignored=("id", "created_at"),
    needed=(("plan", "plan_id"), ("currency",), ("amount",)),
    key=_price_key("plan"),
    write=_plan_price_write,
)


# --- List prices of models ---


def _model_price_write(cells: Cells, writing: Writing) -> Line:
    profile: ModelProfile = _row_of(ModelProfile, "profile", "slug", cells)
    at = _instant("effective_from", cells.get("effective_from", ""))
    standing = ModelPrice.objects.filter(profile=profile, effective_from=at).first() if at else None
    present = standing or model_price_at(profile, at or writing.now)
    # A column that the file has not stays as it is.
    wanted: dict[str, Any] = {
        name: _decimal(name, cells[name]) if name in cells else getattr(present, name, None) for name in PRICE_COLUMNS
    }
    units = _json("units", cells["units"], dict) if "units" in cells else getattr(present, "units", {})
    try:
        amounts = {str(name): Decimal(str(value)) for name, value in units.items() if value is not None}
    except InvalidOperation:
        raise RowRefused(_("%s: a unit's price is no number.") % "units") from None
    tiers = _json("tiers", cells["tiers"], list) if "tiers" in cells else getattr(present, "tiers", [])
    if not all(isinstance(tier, dict) and isinstance(tier.get("threshold"), int) for tier in tiers):
        raise RowRefused(_("%s: each has a threshold in tokens.") % "tiers")
    if any(not value.is_finite() or value < 0 for value in amounts.values()):
        raise RowRefused(_("%s: a unit's price is no number.") % "units")
    changes = _changes(present, wanted)
    before = {} if present is None else {name: Decimal(str(value)) for name, value in present.units.items()}
    if before != amounts:
        changes.append(("units", _units(before), _units(amounts)))
    if (present.tiers if present is not None else []) != tiers:
        changes.append(("tiers", _told(present.tiers) if present is not None else "", _told(tiers)))
    if standing is not None and changes:
        raise RowRefused(_("A price is never changed: give the new one a later instant."))
    if not changes:
        return Line(0, profile.slug, UNCHANGED)
    if at is not None and at < writing.now:
        raise RowRefused(_("Prices take effect at once or later, never before."))
    price = Price(
        columns={name: value for name, value in wanted.items() if value is not None},
        units=amounts,
        tiers=tiers,
        source=cells.get("source", "") or "imported",
    )
    if price.is_empty:
        raise RowRefused(_("The line has no price."))
    model_price_create(profile=profile, price=price, effective_from=at, actor=writing.actor, reason=writing.reason)
    return Line(0, profile.slug, NEW if present is None else CHANGED, [*changes, *_from(at)])


def _units(units: Mapping[str, Decimal]) -> str:
    return ", ".join(f"{name} {_told(value)}" for name, value in sorted(units.items()))


MODEL_PRICES = ListKind(
    name="modelprice",
    columns=("profile", "profile_id", "effective_from", *PRICE_COLUMNS, "units", "tiers", "source"),
    ignored=("id", "created_at"),
    needed=(("profile", "profile_id"),),
    key=_price_key("profile"),
    write=_model_price_write,
)
