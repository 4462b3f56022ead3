"""The shipped start of selling: a seller, tax rules, ways to pay by hand, reminders. Part of the catalogue."""

from dataclasses import asdict
from datetime import date
from pathlib import Path

from billing.invoices.models import SellerProfile, TaxRate
from billing.invoices.tax import shipped_tax_rules
from billing.plans.catalog import CatalogWriter, Shipped, only, tables, toml_read
from billing.subscriptions.models import DunningStep

from .models import ManualMethod

SELLING_FILE = Path(__file__).parent / "data" / "selling.toml"


def selling_write(writer: CatalogWriter, path: Path = SELLING_FILE) -> None:
    """Write what is shipped, except where an operator decided otherwise. Raises CatalogError."""
    data = toml_read(path)
    only(data, ("seller", "manual_method", "dunning_step"), path.name)
    shipped = {
        name: [
            Shipped(f"{path.name}: {name} {position}", entry) for position, entry in enumerate(tables(data, name, path.name), 1)
        ]
        for name in data
    }
    sellers = [Shipped(entry.where, {"valid_from": date.min, **entry.fields}) for entry in shipped.get("seller", [])]
    rates = [
        Shipped(
            f"taxes.toml: {rule.code}",
            {
                "country": rule.country,
                "code": rule.code,
                "scope": rule.scope.value,
                "category": rule.category,
                "regions": list(rule.regions),
                "label": rule.label,
                "components": [{**asdict(part), "rate": str(part.rate)} for part in rule.components],
                "mention": dict(rule.mention),
                "valid_from": rule.valid_from,
                "valid_until": rule.valid_until,
            },
        )
        for rule in shipped_tax_rules()
    ]
    writer.write("seller", SellerProfile, sellers, identity=["code", "valid_from"])
    writer.write("tax_rate", TaxRate, rates, identity=["country", "code", "valid_from"])
    writer.write("manual_method", ManualMethod, shipped.get("manual_method", []), identity=["code"])
    writer.write("dunning_step", DunningStep, shipped.get("dunning_step", []), identity=["offset_hours"])
