"""Price files in three formats: exact decimals in, decimal strings out, and errors that name the entry."""

import json
from typing import Any

import pytest

from routing.catalog import ROUTING_FOLDER
from routing.price_import.reading import PriceFileError, price_file_read

from .conftest import NOW


def read(content: Any, name: str = "file.json") -> Any:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return price_file_read(data, name=name, now=NOW).entries


def test_our_own_table_takes_the_row_in_force() -> None:
    rows = [
        {"from": "2026-12-01T00:00:00Z", "source": "later", "input_per_mtok": "9", "output_per_mtok": "9"},
        {"from": "2026-01-01T00:00:00Z", "source": "first", "input_per_mtok": "1", "output_per_mtok": "2"},
        {
            "from": "2026-06-01T00:00:00Z",
            "source": "second",
            "input_per_mtok": "1.50",
            "output_per_mtok": 3,
            "units": {"per_1k_web_searches": "10"},
            "tiers": [{"threshold": 200000, "input_per_mtok": "3"}],
        },
    ]

    [entry] = read({"prices": {"acme/alpha": rows}})

    assert (entry.slug, entry.source) == ("acme/alpha", "second")
    assert entry.columns == {"input_per_mtok": "1.5", "output_per_mtok": "3"}
    assert entry.units == {"per_1k_web_searches": "10"}
    assert entry.tiers == [{"threshold": 200000, "input_per_mtok": "3"}]


def test_a_price_to_come_is_read_when_there_is_no_other() -> None:
    [entry] = read({"prices": {"acme/a": [{"from": "2026-12-01T00:00:00Z", "input_per_mtok": "9"}]}})

    assert entry.columns == {"input_per_mtok": "9"}


def test_the_reference_table() -> None:
    model = {
        "id": "grok-9",
        "provider": "x-ai",
        "mode": "chat",
        "prices": {
            "input_per_mtok": {"usd": "0.3", "source": "genai-prices"},
            "output_per_mtok": {"usd": "0.5", "source": "litellm"},
            "per_1k_web_searches": {"usd": "10", "source": "genai-prices"},
        },
        "above_input_tokens": [{"threshold": 128000, "prices": {"input_per_mtok": {"usd": "0.6", "source": "x"}}}],
    }

    [entry] = read({"schema_version": 1, "models": [model]})

    assert (entry.slug, entry.provider, entry.upstream) == (None, "xai", "grok-9")
    assert entry.columns == {"input_per_mtok": "0.3", "output_per_mtok": "0.5"}
    assert entry.units == {"per_1k_web_searches": "10"}
    assert entry.tiers == [{"threshold": 128000, "input_per_mtok": "0.6"}]
    assert entry.source == "genai-prices, litellm"


def test_litellms_map_per_token_to_per_million_without_a_float() -> None:
    content = b"""{
        "sample_spec": {"litellm_provider": "one of ...", "input_cost_per_token": 0.0},
        "gemini/gemini-x": {
            "litellm_provider": "gemini", "mode": "chat", "input_cost_per_token": 1.25e-06, "output_cost_per_token": 1e-05,
            "cache_read_input_token_cost": 3.1e-07, "input_cost_per_token_above_200k_tokens": 2.5e-06,
            "output_cost_per_reasoning_token": null, "max_tokens": 8192, "supports_vision": true
        },
        "tts-x": {"litellm_provider": "openai", "input_cost_per_character": 1.5e-05},
        "nothing": {"litellm_provider": "openai"}
    }"""

    gemini, speech = read(content)

    assert (gemini.provider, gemini.upstream) == ("google", "gemini-x")
    assert gemini.columns == {"input_per_mtok": "1.25", "output_per_mtok": "10", "cached_input_per_mtok": "0.31"}
    assert gemini.tiers == [{"threshold": 200000, "input_per_mtok": "2.5"}]
    assert (speech.provider, speech.units) == ("openai", {"per_1k_chars": "0.015"})


def test_the_shipped_table_can_be_read() -> None:
    entries = read((ROUTING_FOLDER / "model_prices.json").read_bytes())

    assert len(entries) > 80
    assert {entry.provider for entry in entries} >= {"openai", "anthropic", "elevenlabs", "stability"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b'{"prices": {"a/b": [{"from": "2026-01-01T00:00:00Z", "input_per_mtok": NaN}]}}', "NaN is no number"),
        ([], "an object is expected"),
        ({"other": 1}, "neither our table"),
        ({"prices": {}}, "has no prices"),
        ({"prices": {"a/b": []}}, "a/b: rows are expected"),
        ({"prices": {"a/b": [{"from": "yesterday", "input_per_mtok": "1"}]}}, "a/b: 'yesterday' is no instant"),
        ({"prices": {"a/b": [{"from": "2026-01-01T00:00:00", "input_per_mtok": "1"}]}}, "is no instant with a time zone"),
        ({"prices": {"a/b": [{"from": "2026-01-01T00:00:00Z", "input_per_mtok": "-1"}]}}, "a/b: input_per_mtok: -1 cannot"),
        ({"prices": {"a/b": [{"from": "2026-01-01T00:00:00Z", "input_per_mtok": "1e12"}]}}, "cannot be a price"),
        ({"prices": {"a/b": [{"from": "2026-01-01T00:00:00Z", "input_per_mtok": "free"}]}}, "'free' is no number"),
        ({"prices": {"a/b": [{"from": "2026-01-01T00:00:00Z", "input_per_mtok": True}]}}, "True is no number"),
        ({"prices": {"a/b": [{"from": "2026-01-01T00:00:00Z", "tiers": [{"threshold": 0}]}]}}, "threshold 0 is no number"),
        ({"models": [{"id": "x"}]}, "a model needs id, provider, prices"),
    ],
)
def test_what_cannot_be_used_is_named(content: Any, told: str) -> None:
    with pytest.raises(PriceFileError) as error:
        read(content)

    assert told in str(error.value)
