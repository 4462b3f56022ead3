"""The shipped catalogue: reading its files, and writing it without ever undoing what an operator did.

`CatalogWriter` serves this app (plans, packs, service prices, exchange rates) and routing (providers, models, prices).
What it wrote for each object is kept in `CatalogRecord`; comparing that with the database tells an operator's edit
from an old default, and an operator's deletion from an object that was never shipped before.
"""

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import IntegrityError, connection, models, transaction

from billing.plans.models import CatalogRecord, CreditPack, FxRate, Plan, PlanPrice, ServicePrice
from iafactory.common import clock

PLANS_FILE = Path(__file__).parent / "data" / "plans.toml"

# Serialises loads: "iaf" + "catalog" as a number nothing else in this database uses.
_ADVISORY_LOCK = 0x696166_63617461


class CatalogError(Exception):
    """A shipped file cannot be loaded; the message names the file and the entry."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key of a shipped object, by the natural key of its target."""

    model: type[models.Model]
    key: str


@dataclass(frozen=True, slots=True)
class Shipped:
    """One object as shipped; absent fields take the model's default. `where` names file and entry in error messages."""

    where: str
    fields: Mapping[str, Any]


@dataclass(slots=True)
class CatalogReport:
    """What a load did, object by object (`kind key`)."""

    created: list[str] = field(default_factory=list)
    updated: dict[str, list[str]] = field(default_factory=dict)
    """Object to the fields that changed."""
    kept: dict[str, list[str]] = field(default_factory=dict)
    """Object to the fields that differ from the catalogue because an operator chose so."""
    deleted: list[str] = field(default_factory=list)
    """Shipped, but deleted by an operator, and therefore not created again."""
    unchanged: int = 0

    def summary(self) -> str:
        """One line of counts."""
        return (
            f"{len(self.created)} created, {len(self.updated)} updated, {self.unchanged} unchanged, "
            f"{len(self.kept)} kept as edited, {len(self.deleted)} left deleted"
        )


def canonical(value: Any) -> Any:
    """`value` as exact JSON: equal values have one form, whatever type or precision they came in."""
    match value:
        case Decimal():
            return f"{value.normalize():f}" if value else "0"
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case Mapping():
            return {str(key): canonical(item) for key, item in value.items()}
        case list() | tuple():
            return [canonical(item) for item in value]
        case str():
            return str(value)  # a choice is a subclass of str
        case _:
            return value


class CatalogWriter:
    """Writes shipped objects kind by kind; targets of foreign keys must be written before those that point to them.

    Lives inside `catalog_writing`, which holds the transaction and the lock.
    """

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.report = CatalogReport()
        self._records = {(record.kind, record.key): record.fields for record in CatalogRecord.objects.all()}
        self._record_writes: dict[tuple[str, str], dict[str, Any]] = {}
        self._rows: dict[type[models.Model], dict[str, models.Model]] = {}
        self._keys: dict[type[models.Model], dict[Any, str]] = {}
        self._absent: dict[type[models.Model], set[str]] = {}

    def write(
        self,
        kind: str,
        model: type[models.Model],
        shipped: Iterable[Shipped],
        *,
        identity: Sequence[str],
        immutable: bool = False,
    ) -> None:
        """Bring the database to what is shipped of one kind, except where an operator decided otherwise.

        `identity` are the fields whose values name an object for good. Rows of an `immutable` kind are only ever added.
        Raises CatalogError for an entry that the model does not accept.
        """
        rows = self._rows[model] = {self._key_of(row, identity): row for row in model._default_manager.all()}
        self._keys[model] = {row.pk: key for key, row in rows.items()}
        absent = self._absent[model] = set()
        new: dict[str, models.Model] = {}
        stale: dict[str, dict[str, Any]] = {}
        seen: set[str] = set()
        for entry in shipped:
            values = self._clean(model, entry)
            key = self._key(values.get(name) for name in identity)
            if key in seen:
                raise CatalogError(f"{entry.where}: appears twice")
            seen.add(key)
            label, record = f"{kind} {key}", self._records.get((kind, key))
            if any(isinstance(value, Reference) for value in values.values()):  # its target was deleted
                absent.add(key)
                self.report.deleted.append(label)
            elif key in rows:
                changes, kept = self._compare(rows[key], values, record)
                if changes and not immutable:
                    stale[key] = values
                    continue
                kept += changes
                if kept:
                    self.report.kept[label] = sorted(kept)
                else:
                    self.report.unchanged += 1
                self._remember(kind, key, values, record, kept=kept)
            elif record is not None:
                absent.add(key)
                self.report.deleted.append(label)
            else:
                new[key] = model(**{_column(model, name).attname: self._database_value(v) for name, v in values.items()})
                self.report.created.append(label)
                self._remember(kind, key, values, record)
        self._create(kind, model, new)
        self._update(kind, model, stale, identity)

    def finish(self) -> None:
        """Write down what was shipped, for the next load."""
        CatalogRecord.objects.bulk_create(
            [
                CatalogRecord(kind=kind, key=key, fields=fields, loaded_at=self.at)
                for (kind, key), fields in self._record_writes.items()
            ],
            update_conflicts=True,
            unique_fields=["kind", "key"],
            update_fields=["fields", "loaded_at"],
        )

    def _create(self, kind: str, model: type[models.Model], new: dict[str, models.Model]) -> None:
        try:
            model._default_manager.bulk_create(new.values())
        except IntegrityError as error:
            raise CatalogError(f"{kind}: the database refuses an entry: {error}") from error
        self._rows[model] |= new
        self._keys[model] |= {row.pk: key for key, row in new.items()}

    def _update(self, kind: str, model: type[models.Model], stale: dict[str, dict[str, Any]], identity: Sequence[str]) -> None:
        if not stale:
            return
        # Read again under a lock: an operator may have saved in the meantime.
        primary_keys = [self._rows[model][key].pk for key in stale]
        locked = model._default_manager.select_for_update(no_key=True, of=("self",)).filter(pk__in=primary_keys)
        fresh = {self._key_of(row, identity): row for row in locked}
        written: set[str] = set()
        for key, row in fresh.items():
            changes, kept = self._compare(row, stale[key], self._records.get((kind, key)))
            for name in changes:
                setattr(row, _column(model, name).attname, self._database_value(stale[key][name]))
            for stamp in (f for f in model._meta.concrete_fields if getattr(f, "auto_now", False)):
                setattr(row, stamp.attname, self.at)
                written.add(stamp.name)
            written.update(changes)
            if changes:
                self.report.updated[f"{kind} {key}"] = sorted(changes)
            if kept:
                self.report.kept[f"{kind} {key}"] = sorted(kept)
            self._remember(kind, key, stale[key], self._records.get((kind, key)), kept=kept)
            self._rows[model][key] = row
        try:
            model._default_manager.bulk_update(list(fresh.values()), sorted(written))
        except IntegrityError as error:
            raise CatalogError(f"{kind}: the database refuses an entry: {error}") from error

    def _compare(
        self, row: models.Model, values: Mapping[str, Any], record: Mapping[str, Any] | None
    ) -> tuple[list[str], list[str]]:
        """Fields to change, and fields left because an operator set them. An object made by an operator keeps all."""
        changes: list[str] = []
        kept: list[str] = []
        for name, value in values.items():
            column = _column(type(row), name)
            current, wanted = self._canonical(getattr(row, column.attname), column), self._canonical(value, column)
            if current == wanted:
                continue
            # A field that the catalogue did not know when it was last loaded still has its default.
            last = None if record is None else record.get(name, self._canonical(column.get_default(), column))
            (changes if record is not None and current == last else kept).append(name)
        return changes, kept

    def _remember(
        self,
        kind: str,
        key: str,
        values: Mapping[str, Any],
        record: Mapping[str, Any] | None,
        *,
        kept: Sequence[str] = (),
    ) -> None:
        """Note what the catalogue stands for now. A field kept for an operator keeps its old note: it stays theirs."""
        model_fields = {name: self._canonical(value) for name, value in values.items()}
        for name in kept:
            if record is not None and name in record:
                model_fields[name] = record[name]
        if model_fields != record:
            self._record_writes[kind, key] = model_fields

    def _clean(self, model: type[models.Model], entry: Shipped) -> dict[str, Any]:
        """All fields that the catalogue decides, as Python values; foreign keys as rows (or still as a Reference
        whose target an operator deleted)."""
        for name in entry.fields:
            try:
                model._meta.get_field(name)
            except FieldDoesNotExist:
                raise CatalogError(f"{entry.where}: unknown field {name!r}") from None
        values: dict[str, Any] = {}
        for column in model._meta.concrete_fields:
            if column.name not in entry.fields and (column.primary_key or not column.editable):
                continue
            value = entry.fields.get(column.name, column.get_default())
            try:
                values[column.name] = self._resolve(value, entry) if column.is_relation else column.clean(value, None)
            except ValidationError as error:
                raise CatalogError(f"{entry.where}: {column.name}: {' '.join(error.messages)}") from error
            if values[column.name] is None and not column.null:
                raise CatalogError(f"{entry.where}: {column.name} is missing")
            if isinstance(values[column.name], Decimal) and values[column.name] < 0:
                raise CatalogError(f"{entry.where}: {column.name}: {value} is negative")
        return values

    def _resolve(self, value: Any, entry: Shipped) -> models.Model | Reference | None:
        if not isinstance(value, Reference):
            return None  # an empty optional key, checked by the caller
        if (row := self._rows[value.model].get(value.key)) is not None:
            return row
        if value.key in self._absent[value.model]:
            return value
        raise CatalogError(f"{entry.where}: there is no {value.model._meta.verbose_name} {value.key!r}")

    def _canonical(self, value: Any, column: Any = None) -> Any:
        if isinstance(value, models.Model):
            return self._keys[type(value)][value.pk]
        if column is not None and column.is_relation:
            return None if value is None else self._keys[column.related_model].get(value)
        return canonical(value)

    def _key(self, values: Iterable[Any]) -> str:
        parts = [value.key if isinstance(value, Reference) else self._canonical(value) for value in values]
        return " ".join("*" if part is None else str(part) for part in parts)

    def _key_of(self, row: models.Model, identity: Sequence[str]) -> str:
        columns = [_column(type(row), name) for name in identity]
        return self._key(self._canonical(getattr(row, column.attname), column) for column in columns)

    @staticmethod
    def _database_value(value: Any) -> Any:
        return value.pk if isinstance(value, models.Model) else value


def _column(model: type[models.Model], name: str) -> "models.Field[Any, Any]":
    column = model._meta.get_field(name)
    assert isinstance(column, models.Field)
    return column


@contextmanager
def catalog_writing(*, dry_run: bool = False) -> Iterator[CatalogWriter]:
    """A transaction in which one load at a time writes the catalogue; a dry run rolls it back at the end."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
        writer = CatalogWriter(clock.now())
        yield writer
        writer.finish()
        if dry_run:
            transaction.set_rollback(True)


# --- Reading files ---


def toml_read(path: Path) -> dict[str, Any]:
    """A TOML file with exact decimals. Raises CatalogError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(f"{path.name}: {error}") from error


def tables(data: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    """The list of tables `name`, copied; empty if absent. Raises CatalogError if it is anything else."""
    value = data.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise CatalogError(f"{where}: {name} must be a list of tables")
    return [dict(item) for item in value]


def take(entry: dict[str, Any], name: str, where: str) -> Any:
    """Remove and return a required value. Raises CatalogError."""
    try:
        return entry.pop(name)
    except KeyError:
        raise CatalogError(f"{where}: {name} is missing") from None


def only(data: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Raises CatalogError if `data` has anything but `names`: a typing error must not be ignored."""
    if unknown := sorted(set(data) - set(names)):
        raise CatalogError(f"{where}: unknown {', '.join(unknown)}")


def decimal_read(value: Any, where: str) -> Decimal:
    """An exact decimal from a file. Raises CatalogError."""
    try:
        number = Decimal(value) if isinstance(value, str | int | Decimal) else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise CatalogError(f"{where}: {value!r} is not a decimal number")
    return number


def instant_read(value: Any, where: str) -> datetime:
    """An aware instant from a file. Raises CatalogError."""
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        instant = None
    if not isinstance(instant, datetime) or instant.tzinfo is None:
        raise CatalogError(f"{where}: {value!r} is not an instant with a time zone")
    return instant


@dataclass(frozen=True, slots=True)
class PlansData:
    """plans.toml, read and checked as far as possible without the database."""

    plans: list[Shipped]
    prices: list[Shipped]
    packs: list[Shipped]
    services: list[Shipped]
    rates: list[Shipped]

    @property
    def codes(self) -> set[str]:
        """Codes of all shipped plans."""
        return {plan.fields["code"] for plan in self.plans}

    def price_usd(self, code: str, at: datetime) -> Decimal:
        """What plan `code` costs at `at`, in USD, not rounded, at the shipped rates; the lowest of several currencies.

        Raises CatalogError if there is no price or no rate.
        """
        in_force = _in_force((p for p in self.prices if p.fields["plan"].key == code), lambda f: f["currency"], at)
        if not in_force:
            raise CatalogError(f"{PLANS_FILE.name}: plan {code!r} has no price in force")
        prices: list[Decimal] = [price["amount"] / self._per_usd(price["currency"], at) for price in in_force]
        return min(prices)

    def _per_usd(self, currency: str, at: datetime) -> Decimal:
        if currency == "USD":
            return Decimal(1)
        rates = _in_force(self.rates, lambda f: (f["base"], f["quote"]), at)
        rate = next((r["rate"] for r in rates if (r["base"], r["quote"]) == ("USD", currency)), None)
        if not rate:
            raise CatalogError(f"{PLANS_FILE.name}: no exchange rate from USD to {currency}")
        return Decimal(rate)


def _in_force(rows: Iterable[Shipped], series: Callable[[Mapping[str, Any]], Any], at: datetime) -> list[Mapping[str, Any]]:
    """Of each series of effective-dated rows, the one in force at `at`."""
    started = sorted((r.fields for r in rows if r.fields["effective_from"] <= at), key=lambda f: f["effective_from"])
    return list({series(fields): fields for fields in started}.values())


def plans_read(path: Path = PLANS_FILE) -> PlansData:
    """Read a plans file. Raises CatalogError."""
    data = toml_read(path)
    only(data, ("plan", "credit_pack", "service_price", "fx_rate"), path.name)
    result = PlansData([], [], [], [], [])
    for index, entry in enumerate(tables(data, "plan", path.name), 1):
        code = entry.get("code")
        where = f"{path.name}: plan {code or index!r}"
        for price in tables(entry, "prices", where):
            place = f"{where}: price {price.get('currency')} {price.get('amount')}"
            result.prices.append(
                Shipped(
                    place,
                    {
                        "plan": Reference(Plan, str(code)),
                        "amount": decimal_read(take(price, "amount", place), place),
                        "effective_from": instant_read(take(price, "from", place), place),
                        "currency": take(price, "currency", place),
                        **price,
                    },
                )
            )
        entry.pop("prices", None)
        result.plans.append(Shipped(where, {"visibility": Plan.Visibility.PUBLIC, "code": take(entry, "code", where), **entry}))
    for name, target in (("credit_pack", result.packs), ("service_price", result.services)):
        for index, entry in enumerate(tables(data, name, path.name), 1):
            target.append(Shipped(f"{path.name}: {name} {entry.get('code') or index!r}", entry))
    for rate in tables(data, "fx_rate", path.name):
        where = f"{path.name}: fx_rate {rate.get('base')}/{rate.get('quote')}"
        values = {
            "base": take(rate, "base", where),
            "quote": take(rate, "quote", where),
            "rate": decimal_read(take(rate, "rate", where), where),
            "effective_from": instant_read(take(rate, "from", where), where),
        }
        result.rates.append(Shipped(where, {**values, **rate}))
    return result


def plans_write(writer: CatalogWriter, data: PlansData) -> None:
    """Write plans, their prices, packs, service prices and exchange rates. Raises CatalogError."""
    writer.write("plan", Plan, data.plans, identity=["code"])
    writer.write("plan_price", PlanPrice, data.prices, identity=["plan", "currency", "effective_from"], immutable=True)
    writer.write("credit_pack", CreditPack, data.packs, identity=["code"])
    writer.write("service_price", ServicePrice, data.services, identity=["code"])
    writer.write("fx_rate", FxRate, data.rates, identity=["base", "quote", "effective_from"], immutable=True)
