"""Requests beside chat: what they can consume at most, and what becomes of figures that a provider left out."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from iafactory.common.errors import ApiError
from routing.media_requests import (
    MediaRequest,
    Upload,
    embeddings_parse,
    image_parse,
    music_parse,
    speech_parse,
    transcription_parse,
)
from routing.pricing import PriceUnknown, list_cost
from routing.providers.base import Usage
from routing.simulator.media import sound_mp3, sound_wav
from routing.snapshot import Credential, Price, Route, TierPrice

D = Decimal
MODEL = {"model": "any"}
ROUTE = Route(
    slug="openai/any",
    provider="openai",
    protocol="openai",
    base_url="http://127.0.0.1:9",
    credentials=(Credential("", "none"),),
    simulated=True,
    quirks=frozenset(),
    connect_timeout_seconds=5,
    first_byte_timeout_seconds=60,
    read_timeout_seconds=120,
    provider_priority=1,
    draining=False,
    provider_requests_per_minute=None,
    provider_concurrent_calls=None,
    requests_per_minute=None,
    requests_per_day=None,
    concurrent_calls=None,
    reserved_for=frozenset(),
    model="any",
    upstream_model="any",
    reasoning=False,
    cost_factor=D(1),
    margin_multiplier=None,
    context_window=None,
    max_output_tokens=None,
    default_max_output=4096,
    weight=100,
    typical_latency_ms=1000,
    prices=(),
)


def price(*, input: str | None = None, output: str | None = None, **units: str) -> Price:
    base = TierPrice(D(input) if input else None, None, None, None, D(output) if output else None, None)
    return Price("p1", datetime(2026, 1, 1, tzinfo=UTC), base, (), {name: D(usd) for name, usd in units.items()})


def transcription(content: bytes, name: str = "a.wav") -> MediaRequest:
    return transcription_parse({"model": ["any"]}, {"file": [Upload(name, content)]})


def worst(request: MediaRequest, row: Price, route: Route = ROUTE) -> Decimal:
    return request.worst_case(route, row).list_cost_usd


def test_texts_to_embed_can_count_no_more_than_their_bytes() -> None:
    request = embeddings_parse({**MODEL, "input": ["abcd", "مرحبا"]})

    case = request.worst_case(ROUTE, price(input="1000"))

    assert (case.input_tokens, case.output_tokens) == (4 + 10 + 2 * 8, 0)
    assert case.list_cost_usd == D("0.03")


def test_token_ids_are_counted_one_by_one() -> None:
    request = embeddings_parse({**MODEL, "input": [[1, 2, 3], [4]]})

    assert (request.input_tokens_at_most, request.input_tokens_estimated) == (4 + 2 * 8, 3)


def test_the_largest_text_decides_whether_the_input_fits() -> None:
    request = embeddings_parse({**MODEL, "input": ["x" * 4000, *["y"] * 100]})

    assert request.input_tokens_estimated == 1300


@pytest.mark.parametrize(("asked", "usd"), [({"quality": "low", "size": "1024x1024"}, "0.02"), ({}, "0.4"), ({"n": 3}, "0.6")])
def test_images_hold_what_they_cost(asked: dict[str, Any], usd: str) -> None:
    row = price(per_image_low="0.01", per_image="0.2")

    assert worst(image_parse({**MODEL, "prompt": "x", "n": 2, **asked}), row) == D(usd)


def test_an_image_made_in_another_quality_costs_what_it_was_made_in() -> None:
    request = image_parse({**MODEL, "prompt": "x", "quality": "auto"})
    row = price(per_image_low="0.01", per_image_high="0.2", per_image="0.2")

    made = request.price(row, {"quality": "low", "size": "1024x1024"})

    assert (worst(request, row), list_cost(made, Usage(units={"images": D(1)}))) == (D("0.2"), D("0.01"))


def test_an_image_billed_by_tokens_holds_the_figure_for_its_quality() -> None:
    row = price(input="5", output="30", hold_per_image_low="0.03", hold_per_image="0.3")

    low = image_parse({**MODEL, "prompt": "x" * 50, "quality": "low", "size": "1024x1024"}).worst_case(ROUTE, row)
    open_ = image_parse({**MODEL, "prompt": "x" * 50}).worst_case(ROUTE, row)

    assert (low.output_tokens, low.list_cost_usd) == (1000, D("0.0305"))
    assert (open_.output_tokens, open_.list_cost_usd) == (10_000, D("0.3005"))


def test_an_image_billed_by_tokens_has_no_price_without_an_estimate() -> None:
    with pytest.raises(PriceUnknown):
        worst(image_parse({**MODEL, "prompt": "x"}), price(input="5", output="30"))


def test_text_beside_an_image_is_held_too() -> None:
    row = price(input="1.5", output="7.5", per_image="0.0336")
    request = image_parse({**MODEL, "prompt": "x" * 950})

    assert worst(request, row) == D("0.0336") + D("0.0015") + D("0.03072")
    assert worst(request, row, replace(ROUTE, max_output_tokens=100)) == D("0.0336") + D("0.0015") + D("0.00075")


def test_speech_holds_its_characters() -> None:
    request = speech_parse({**MODEL, "input": "مرحبا بكم 👋", "voice": "alloy"})

    assert request.units == {"characters": D(11)}
    assert worst(request, price(per_1k_chars="1000")) == D(11)


def test_speech_billed_by_tokens_is_bounded_by_its_text() -> None:
    row = price(input="0", output="1")
    plain = speech_parse({**MODEL, "input": "x" * 1000, "voice": "alloy"})
    slow = speech_parse({**MODEL, "input": "x" * 1000, "voice": "alloy", "speed": 0.5})
    told = speech_parse({**MODEL, "input": "x" * 1000, "voice": "alloy", "instructions": "Take your time."})
    digits = speech_parse({**MODEL, "input": "7" * 1000, "voice": "alloy"})

    tokens = [request.worst_case(ROUTE, row).output_tokens for request in (plain, slow, told, digits)]
    capped = digits.worst_case(replace(ROUTE, max_output_tokens=2000), row).output_tokens

    assert tokens == [4201, 8401, 8401, 24_201]
    assert capped == 2000


def test_a_recording_holds_its_begun_seconds() -> None:
    request = transcription(sound_wav(1.2))

    assert request.units == {"seconds": D(2)}
    assert request.body["file"].seconds == D("1.2")
    assert worst(request, price(per_audio_hour="3600")) == D(2)
    assert worst(request, price(per_audio_hour="3600", least_audio_seconds="10")) == D(10)


def test_a_recording_without_a_price_for_its_length_is_refused() -> None:
    with pytest.raises(PriceUnknown):
        worst(transcription(sound_wav(1)), price(input="1", output="1"))


def test_the_name_of_a_recording_stays_here() -> None:
    request = transcription(sound_mp3(1), "Plainte de M. Untel.MP3")

    assert (request.body["file"].name, request.body["file"].content_type) == ("recording.mp3", "audio/mpeg")


@pytest.mark.parametrize(
    ("content", "name", "seconds"),
    [
        (sound_mp3(2), "a.mp3", "2.011"),
        # The format is what the content says.
        (sound_wav(3), "a.ogg", "3"),
        # What cannot be read is as long as speech of 8 kbit/s.
        (b"\x1aE\xdf\xa3" + bytes(9996), "a.webm", "10"),
        (b"ID3" + bytes(100_000), "a.mp3", "100.003"),
    ],
)
def test_how_long_a_recording_is(content: bytes, name: str, seconds: str) -> None:
    assert transcription(content, name).body["file"].seconds == D(seconds)


def test_a_header_that_claims_too_little_is_not_believed() -> None:
    honest = sound_wav(10)
    forged = honest[:24] + (4_000_000_000).to_bytes(4, "little") + honest[28:]

    # At 10 Mbit/s, the most that such a file can have.
    assert transcription(honest).body["file"].seconds == D(10)
    assert transcription(forged).body["file"].seconds == D("0.384")


def test_music_holds_its_clip_or_its_length() -> None:
    request = music_parse({**MODEL, "prompt": "x", "seconds": 30.5})
    open_ = music_parse({**MODEL, "prompt": "x"})

    assert worst(request, price(per_clip="0.2")) == D("0.2")
    assert worst(request, price(per_second="0.01")) == D("0.305")
    assert worst(open_, price(per_second="0.01")) == D(6)


@pytest.mark.parametrize(
    ("usage", "units", "expected", "guessed"),
    [
        (Usage(10, output_total=20, units={"images": D(1)}), {}, Usage(10, output_total=20, units={"images": D(1)}), False),
        (Usage(units={"images": D(1)}), {}, Usage(16, output_total=900, units={"images": D(1)}), True),
        (Usage(units={"images": D(1)}), {"per_image": "1"}, Usage(units={"images": D(1)}), False),
    ],
)
def test_tokens_that_are_billed_and_not_reported_are_taken_from_the_hold(
    usage: Usage, units: dict[str, str], expected: Usage, guessed: bool
) -> None:
    request = image_parse({**MODEL, "prompt": "x" * 50})

    assert request.complete(usage, price(input="1", output="1", **units), output_tokens=900) == (expected, guessed)


def test_a_field_that_may_change_the_price_is_refused() -> None:
    with pytest.raises(ApiError) as refused:
        image_parse({**MODEL, "prompt": "x", "resolution": "4k"})

    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "unsupported_parameter", "resolution")


def test_null_is_the_default() -> None:
    request = image_parse({**MODEL, "prompt": "x", "n": None, "size": None, "quality": None, "stream": None})

    assert request.body == {"model": "any", "prompt": "x"}
    assert (request.units, request.events) == ({"images": D(1)}, False)
