"""What the sources of credits are called for people. Rows keep the English words and a code: `Plan pro`, `Pack credits-500`."""

from collections.abc import Iterable, Mapping
from typing import Any

from billing.plans.models import CreditPack, Plan
from iafactory.common.texts import Text, shipped

# The ends of what operators' gifts begin with.
_GRANTED = "granted by "


def source_names(sources: Iterable[str]) -> dict[str, str]:
    """Each source in the reader's language, plans and packs by their names; others as written. Two queries at most."""
    wanted = set(sources)
    plans = _names(Plan, wanted, "Plan ")
    packs = _names(CreditPack, wanted, "Pack ")
    return {source: _named(source, plans, packs) for source in wanted}


def lots_named(lots: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lots as the API tells them, with their sources in the reader's language."""
    told = list(lots)
    names = source_names(lot["source"] for lot in told)
    return [{**lot, "source": names[lot["source"]]} for lot in told]


def _names(model: type[Plan | CreditPack], sources: set[str], begins: str) -> dict[str, str]:
    codes = [source.removeprefix(begins) for source in sources if source.startswith(begins)]
    found: Any = model.objects.filter(code__in=codes).values_list("code", "name") if codes else ()
    return {f"{begins}{code}": shipped(name) or code for code, name in found}


def _named(source: str, plans: dict[str, str], packs: dict[str, str]) -> str:
    if source in plans:
        return Text("Plan %(name)s", name=plans[source]).translated()
    if source in packs:
        return Text("Pack %(name)s", name=packs[source]).translated()
    if source.startswith(_GRANTED):
        return Text("Granted by %(name)s", name=source.removeprefix(_GRANTED)).translated()
    return source
