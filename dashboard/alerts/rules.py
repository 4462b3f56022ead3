"""The rules shipped, loaded with the catalogue."""

from pathlib import Path

from django.core.exceptions import ValidationError

from billing.plans.catalog import CatalogError, CatalogWriter, Shipped, only, tables, toml_read

from .models import AlertRule
from .services import thresholds_checked

RULES_FILE = Path(__file__).parent / "data" / "rules.toml"


def rules_read(path: Path = RULES_FILE) -> list[Shipped]:
    """Read a file of rules. Raises CatalogError."""
    data = toml_read(path)
    only(data, ("rule",), path.name)
    shipped = []
    for index, entry in enumerate(tables(data, "rule", path.name), 1):
        where = f"{path.name}: rule {entry.get('code') or index!r}"
        if entry.get("kind") not in AlertRule.Kind.values:
            raise CatalogError(f"{where}: unknown kind {entry.get('kind')!r}")
        try:
            thresholds_checked(entry["kind"], entry.get("thresholds", {}))
        except ValidationError as error:
            raise CatalogError(f"{where}: {' '.join(error.messages)}") from error
        shipped.append(Shipped(where, entry))
    return shipped


def rules_write(writer: CatalogWriter) -> None:
    """Write the shipped rules; those that operators edited or deleted stay so. Raises CatalogError."""
    writer.write("alert_rule", AlertRule, rules_read(), identity=["code"])
