"""Reading price files: our own table, the reference table of providers' prices, and LiteLLM's price map.

Whatever the format, prices become decimal strings in USD under the names of `ModelPrice`: columns per million tokens, other
units under `units`, context tiers under `tiers`. A field that a file does not name is unknown to it, never zero.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from iafactory.common.money import USD

from .models import price_text

COLUMNS = (
    "input_per_mtok",
    "cached_input_per_mtok",
    "cache_write_per_mtok",
    "cache_write_1h_per_mtok",
    "output_per_mtok",
    "reasoning_output_per_mtok",
)
# What the columns of `ModelPrice` hold.
LARGEST_PRICE = Decimal(10) ** 11

# How files call companies that the catalogue calls otherwise.
_PROVIDERS = {
    "x-ai": "xai",
    "gemini": "google",
    "together_ai": "together",
    "cohere_chat": "cohere",
}
_LITELLM_TOKENS = {
    "input_cost_per_token": "input_per_mtok",
    "cache_read_input_token_cost": "cached_input_per_mtok",
    "cache_creation_input_token_cost": "cache_write_per_mtok",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_per_mtok",
    "output_cost_per_token": "output_per_mtok",
    "output_cost_per_reasoning_token": "reasoning_output_per_mtok",
}
_LITELLM_UNITS = {
    "output_cost_per_image": ("per_image", 1),
    "input_cost_per_character": ("per_1k_chars", 1000),
    "input_cost_per_second": ("per_audio_hour", 3600),
}
_LITELLM_TIER = re.compile(r"(\w+?)_above_(\d+)k_tokens")
_MILLION = 1_000_000


class PriceFileError(Exception):
    """A file that cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class FilePrice:
    """One entry of a file: whose price it is, and the price.

    An entry names a profile by its slug, or a provider and the provider's own name of the model.
    """

    name: str
    slug: str | None
    provider: str
    upstream: str
    columns: dict[str, str]
    units: dict[str, str]
    tiers: list[dict[str, Any]]
    source: str


@dataclass(frozen=True, slots=True)
class PriceFile:
    """A price file, read and checked."""

    name: str
    entries: list[FilePrice] = field(default_factory=list)

    @property
    def providers(self) -> set[str]:
        """The companies it speaks of."""
        return {entry.provider for entry in self.entries}


def price_file_read(data: bytes, *, name: str, now: datetime) -> PriceFile:
    """Read a price file in any of the known formats. Raises PriceFileError."""
    try:
        content = json.loads(data, parse_float=Decimal, parse_int=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise PriceFileError(f"{name} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise PriceFileError(f"{name}: an object is expected")
    if isinstance(content.get("prices"), dict):
        entries = list(_own(content["prices"], now))
    elif isinstance(content.get("models"), list):
        entries = list(_reference(content["models"]))
    elif any(isinstance(entry, dict) and "litellm_provider" in entry for entry in content.values()):
        entries = list(_litellm(content))
    else:
        raise PriceFileError(f"{name}: neither our table, nor the reference table, nor LiteLLM's map")
    if not entries:
        raise PriceFileError(f"{name} has no prices")
    return PriceFile(name, entries)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _own(prices: Mapping[str, Any], now: datetime) -> Iterator[FilePrice]:
    """`routing/data/model_prices.json`: of each profile's rows the one in force, else the next to come."""
    for slug, rows in prices.items():
        _expect(isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows), f"{slug}: rows are expected")
        dated = sorted(((_instant(row.get("from"), slug), index) for index, row in enumerate(rows)))
        begun = [index for at, index in dated if at <= now]
        row = rows[begun[-1] if begun else dated[0][1]]
        provider, _slash, upstream = slug.partition("/")
        yield FilePrice(
            name=slug,
            slug=slug,
            provider=provider,
            upstream=upstream,
            columns=_columns(row, slug),
            units=_units(row.get("units", {}), slug),
            tiers=[
                {"threshold": _tokens(tier.get("threshold"), slug), **_columns(tier, slug)} for tier in row.get("tiers", ())
            ],
            source=str(row.get("source", "")),
        )


def _reference(models: list[Any]) -> Iterator[FilePrice]:
    """A list of models with provider, id and prices, each price with its source."""
    for model in models:
        _expect(isinstance(model, dict) and {"id", "provider", "prices"} <= model.keys(), "a model needs id, provider, prices")
        provider, name = _provider(model["provider"]), str(model["id"])
        where = f"{provider}/{name}"
        prices = {key: value.get("usd") if isinstance(value, dict) else value for key, value in model["prices"].items()}
        sources = {str(value.get("source")) for value in model["prices"].values() if isinstance(value, dict)}
        tiers = []
        for tier in model.get("above_input_tokens", ()):
            own = {key: value.get("usd") if isinstance(value, dict) else value for key, value in tier["prices"].items()}
            tiers.append({"threshold": _tokens(tier.get("threshold"), where), **_columns(own, where)})
        yield FilePrice(
            name=where,
            slug=None,
            provider=provider,
            upstream=name,
            columns=_columns(prices, where),
            units=_units({key: value for key, value in prices.items() if key not in COLUMNS}, where),
            tiers=tiers,
            source=", ".join(sorted(sources)),
        )


def _litellm(models: Mapping[str, Any]) -> Iterator[FilePrice]:
    """LiteLLM's `model_prices_and_context_window.json`: prices per token, some models under `company/name`."""
    for key, model in models.items():
        if not isinstance(model, dict) or "litellm_provider" not in model or key == "sample_spec":
            continue
        company = str(model["litellm_provider"])
        provider = _provider(company)
        columns: dict[str, Any] = {}
        units: dict[str, Any] = {}
        tiers: dict[int, dict[str, Any]] = {}
        for name, value in model.items():
            tier = _LITELLM_TIER.fullmatch(name)
            if value is None:
                continue
            if name in _LITELLM_TOKENS:
                columns[_LITELLM_TOKENS[name]] = _number(value, key) * _MILLION
            elif tier and tier[1] in _LITELLM_TOKENS:
                tiers.setdefault(int(tier[2]) * 1000, {})[_LITELLM_TOKENS[tier[1]]] = _number(value, key) * _MILLION
            elif name in _LITELLM_UNITS:
                unit, per = _LITELLM_UNITS[name]
                units[unit] = _number(value, key) * per
        if columns or units:
            yield FilePrice(
                name=key,
                slug=None,
                provider=provider,
                upstream=key.removeprefix(f"{company}/"),
                columns=_columns(columns, key),
                units=_units(units, key),
                tiers=[{"threshold": above, **_columns(own, key)} for above, own in sorted(tiers.items())],
                source="LiteLLM",
            )


def _provider(name: Any) -> str:
    return _PROVIDERS.get(str(name), str(name))


def _columns(row: Mapping[str, Any], where: str) -> dict[str, str]:
    return {name: _price(row[name], f"{where}: {name}") for name in COLUMNS if row.get(name) is not None}


def _units(row: Any, where: str) -> dict[str, str]:
    _expect(isinstance(row, dict), f"{where}: units are a table")
    return {str(name): _price(value, f"{where}: {name}") for name, value in sorted(row.items()) if value is not None}


def _price(value: Any, where: str) -> str:
    number = _number(value, where)
    _expect(Decimal(0) <= number < LARGEST_PRICE, f"{where}: {value} cannot be a price")
    return price_text(number.quantize(USD))


def _number(value: Any, where: str) -> Decimal:
    try:
        number = Decimal(value) if isinstance(value, str | Decimal) else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    _expect(number.is_finite(), f"{where}: {value!r} is no number")
    return number


def _tokens(value: Any, where: str) -> int:
    number = _number(value, f"{where}: threshold")
    _expect(number > 0 and number == int(number), f"{where}: threshold {value} is no number of tokens")
    return int(number)


def _instant(value: Any, where: str) -> datetime:
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        at = None
    _expect(at is not None and at.tzinfo is not None, f"{where}: {value!r} is no instant with a time zone")
    assert at is not None
    return at


def _expect(true: Any, message: str) -> None:
    if not true:
        raise PriceFileError(message)
