"""What is not billed by tokens: images, characters, seconds, clips."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from iafactory.common.money import credits_for_cost
from routing.pricing import (
    PriceUnknown,
    image_price,
    is_priced,
    list_cost,
    unit_prices,
    with_image_price,
    worst_unit_cost,
)
from routing.providers.base import Usage
from routing.snapshot import Price, TierPrice

D = Decimal
GPT_IMAGE = {
    "per_image_low": "0.009",
    "per_image_low_1024x1536": "0.013",
    "per_image_medium": "0.034",
    "per_image_medium_1024x1536": "0.05",
    "per_image_high": "0.133",
    "per_image_high_1024x1536": "0.2",
    "per_image": "0.2",
}


def price(*, input: str | None = None, output: str | None = None, **units: str) -> Price:
    base = TierPrice(D(input) if input else None, None, None, None, D(output) if output else None, None)
    prices = {name: D(usd) for name, usd in units.items()}
    return Price("p1", datetime(2026, 1, 1, tzinfo=UTC), base, (), prices)


@pytest.mark.parametrize(
    ("units", "used", "cost"),
    [
        ({"per_image": "0.04"}, {"images": D(2)}, "0.08"),
        ({"per_1k_chars": "0.015"}, {"characters": D(200)}, "0.003"),
        ({"per_1k_chars": "0.015"}, {"characters": D(1)}, "0.000015"),
        ({"per_audio_hour": "0.36"}, {"seconds": D("12.5")}, "0.00125"),
        ({"per_audio_hour": "0.04", "least_audio_seconds": "10"}, {"seconds": D(3)}, "0.000111111"),
        ({"per_second": "0.002"}, {"seconds": D(30), "clips": D(1)}, "0.06"),
        ({"per_clip": "0.05"}, {"clips": D(1), "seconds": D(30)}, "0.05"),
    ],
)
def test_units_cost_what_the_list_says(units: dict[str, str], used: dict[str, Decimal], cost: str) -> None:
    row = price(**units)

    assert list_cost(row, Usage(units=used)) == D(cost)
    assert worst_unit_cost(row, used, input_tokens=0, output_tokens=0) >= list_cost(row, Usage(units=used))


def test_text_around_an_image_is_billed_beside_it() -> None:
    row = price(input="1.5", output="7.5", per_image="0.0336")

    assert list_cost(row, Usage(1000, output_total=400, units={"images": D(1)})) == D("0.0381")
    assert worst_unit_cost(row, {"images": D(1)}, input_tokens=1000, output_tokens=400) == D("0.0381")


def test_text_around_an_image_is_free_where_it_has_no_price() -> None:
    row = price(per_image="0.2")

    assert list_cost(row, Usage(1000, output_total=400, units={"images": D(1)})) == D("0.2")


def test_seconds_and_characters_cover_the_tokens_beside_them() -> None:
    transcription = price(input="1.25", output="5", per_audio_hour="0.18")
    speech = price(input="1", output="1", per_1k_chars="0.01")

    assert list_cost(transcription, Usage(330, output_total=80, units={"seconds": D(60)})) == D("0.003")
    assert list_cost(speech, Usage(330, output_total=80, units={"characters": D(1000)})) == D("0.01")


def test_without_a_price_for_the_unit_tokens_are_billed() -> None:
    row = price(input="5", output="30")
    usage = Usage(12, output_total=1056, units={"images": D(1)})

    assert list_cost(row, usage) == D("0.03174")
    assert worst_unit_cost(row, usage.units, input_tokens=12, output_tokens=1056) == D("0.03174")


def test_input_alone_is_priced_for_what_has_no_output() -> None:
    assert list_cost(price(input="0.02"), Usage(1_000_000)) == D("0.02")
    assert worst_unit_cost(price(input="0.02"), {}, input_tokens=50, output_tokens=0) == D("0.000001")


@pytest.mark.parametrize("usage", [Usage(1), Usage(0, output_total=1), Usage(1, units={"clips": D(1)})])
def test_an_unknown_price_is_not_zero(usage: Usage) -> None:
    with pytest.raises(PriceUnknown):
        list_cost(price(per_1k_chars="1"), usage)
    with pytest.raises(PriceUnknown):
        worst_unit_cost(price(), usage.units, input_tokens=usage.input_total, output_tokens=usage.output_total)


@pytest.mark.parametrize(
    ("quality", "size", "usd"),
    [
        ("low", "1024x1024", "0.009"),
        ("low", "1024x1536", "0.013"),
        ("low", "1536x1024", "0.013"),
        ("high", "1536x1024", "0.2"),
        ("medium", "auto", "0.2"),
        ("low", "4096x4096", "0.2"),
        (None, None, "0.2"),
        ("auto", "1024x1024", "0.2"),
        ("high", "1024x1024", "0.133"),
    ],
)
def test_an_image_has_the_price_of_its_quality_and_size(quality: str | None, size: str | None, usd: str) -> None:
    row = price(**GPT_IMAGE, input="1")

    found = with_image_price(row, quality=quality, size=size)

    assert image_price(row, quality=quality, size=size) == D(usd)
    assert found.units == {"per_image": D(usd)}
    assert found.base == row.base


def test_an_image_without_a_price_of_its_own_is_as_dear_as_the_dearest() -> None:
    row = price(per_image_low="0.01", per_image_high="0.1", per_1k_chars="9")

    assert image_price(row, quality="low", size="512x512") == D("0.01")
    assert image_price(row, quality="max", size="512x512") == D("0.1")
    assert image_price(price(per_1k_chars="9"), quality=None, size=None) is None
    assert with_image_price(price(per_1k_chars="9"), quality=None, size=None) == price(per_1k_chars="9")


def test_each_unit_price_says_what_it_is_for() -> None:
    [line] = unit_prices(price(per_audio_hour="0.04", least_audio_seconds="10"), {"seconds": D(3)})

    assert (line.name, line.unit, line.count, line.per, line.usd) == ("per_audio_hour", "seconds", D(10), 3600, D("0.04"))


@pytest.mark.parametrize(
    ("row", "modes"),
    [
        (price(), set()),
        (price(input="1"), {"embedding"}),
        (price(input="1", output="2"), {"chat", "embedding", "tts"}),
        (price(input="1", output="2", hold_per_image="0.3"), {"chat", "embedding", "tts", "image"}),
        (price(per_image_low="0.1"), {"image"}),
        (price(per_1k_chars="0.1"), {"tts"}),
        (price(per_audio_hour="0.1"), {"stt"}),
        (price(per_second="0.1"), {"stt", "music"}),
        (price(per_clip="0.1"), {"music"}),
    ],
)
def test_what_a_row_prices(row: Price, modes: set[str]) -> None:
    assert {mode for mode in ("chat", "embedding", "image", "tts", "stt", "music") if is_priced(mode, row)} == modes


@pytest.mark.parametrize(("usd", "credits"), [("0.04", 7), ("0.003", 1), ("0.05", 9), ("0.002", 1)])
def test_whole_credits_with_the_defaults(usd: str, credits: int) -> None:
    terms: dict[str, Any] = {"margin_multiplier": D("1.8"), "usd_per_credit": D("0.01"), "whole": True}

    assert credits_for_cost(D(usd), **terms) == credits
