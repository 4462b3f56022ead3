"""How a proposed price differs from the one in force, and what about it should make an operator look twice."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from .reading import COLUMNS, FilePrice

# A step of this many percent, up or down, is looked at twice; a factor of this size looks like another unit.
SUSPICIOUS_PERCENT = 50
SUSPICIOUS_FACTOR = 100


@dataclass(frozen=True, slots=True)
class Difference:
    """One field; amounts are decimal strings, None is unknown. `percent` of the step, None where there was nothing."""

    name: str
    before: str | None
    after: str | None
    percent: str | None

    def told(self) -> dict[str, str | None]:
        return asdict(self)


def merged(present: Mapping[str, Any] | None, entry: FilePrice) -> dict[str, Any]:
    """The whole price proposed: what the file says, and what is in force where it says nothing."""
    before = present or {"columns": {}, "units": {}, "tiers": []}
    return {
        "columns": {**before["columns"], **entry.columns},
        "units": {**before["units"], **entry.units},
        "tiers": entry.tiers or before["tiers"],
    }


def differences(present: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> list[Difference]:
    """Field by field what changes, in the order of the columns, then units, then tiers."""
    before, after = _flat(present) if present else {}, _flat(wanted)
    found = []
    for name in sorted({*before, *after}, key=_order):
        old, new = before.get(name), after.get(name)
        if (None if old is None else Decimal(old)) != (None if new is None else Decimal(new)):
            found.append(Difference(name, old, new, _percent(old, new)))
    return found


def warnings_of(found: list[Difference], wanted: Mapping[str, Any]) -> list[str]:
    """Why an operator should look twice: big steps, zeros, and prices that stand oddly to each other."""
    told = []
    for difference in found:
        old, new = difference.before, difference.after
        if old is None or new is None:
            if old is not None:
                told.append(f"{difference.name} disappears")
            continue
        before, after = Decimal(old), Decimal(new)
        if not after:
            told.append(f"{difference.name} becomes zero")
        elif not before:
            told.append(f"{difference.name} was zero")
        elif after >= before * SUSPICIOUS_FACTOR or before >= after * SUSPICIOUS_FACTOR:
            told.append(f"{difference.name} changes by a factor of {SUSPICIOUS_FACTOR} or more: another unit?")
        elif abs(after - before) * 100 >= before * SUSPICIOUS_PERCENT:
            told.append(f"{difference.name} changes by {difference.percent} %")
    for tier in (wanted["columns"], *wanted["tiers"]):
        above = f" above {tier['threshold']:,} tokens" if "threshold" in tier else ""
        if _less(tier, "output_per_mtok", "input_per_mtok"):
            told.append(f"output is cheaper than input{above}")
        if _less(tier, "input_per_mtok", "cached_input_per_mtok"):
            told.append(f"cached input is dearer than fresh input{above}")
    return told


def _less(tier: Mapping[str, Any], name: str, other: str) -> bool:
    return name in tier and other in tier and Decimal(tier[name]) < Decimal(tier[other])


def _flat(price: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = dict(price["columns"])
    flat |= {f"units.{name}": value for name, value in price["units"].items()}
    for tier in price["tiers"]:
        flat |= {f"above {tier['threshold']}.{name}": value for name, value in tier.items() if name != "threshold"}
    return flat


def _order(name: str) -> tuple[int, str]:
    return (COLUMNS.index(name), "") if name in COLUMNS else (len(COLUMNS), name)


def _percent(old: str | None, new: str | None) -> str | None:
    if old is None or new is None or not Decimal(old):
        return None
    step = (Decimal(new) - Decimal(old)) / Decimal(old) * 100
    return f"{step.quantize(Decimal('0.1'), ROUND_HALF_UP):+}"
