"""Models, profiles and list prices as shipped, checked against an independent price table."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price

from routing.catalog import catalog_load
from routing.models import AiModel, ModelPrice, ModelProfile, Provider, model_price_at
from routing.providers.presets import PRESETS

pytestmark = pytest.mark.django_db

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
DEEPSEEK_PEAK = datetime(2026, 11, 20, 2, tzinfo=UTC)
MILLION = 1_000_000

# Shipped dearer than the table on purpose: profile to (ours, theirs) in USD per million tokens, input and output.
KNOWN_DIFFERENCES = {
    "deepseek/deepseek-v4.1-flash": (("0.3", "1.2"), ("0.15", "0.6")),
    "deepseek/deepseek-v4-pro": (("1.32", "3.96"), ("0.66", "1.98")),
    "mistral/mistral-large-4": (("1.36", "4.18"), ("0.7", "2.1")),
    "together/llama-3.3-70b": (("1.04", "1.04"), ("0.88", "0.88")),
}
# The table has no such provider.
UNKNOWN_THERE = {
    "dashscope/qwen-plus",
    "dashscope/qwen3.7-plus",
    "dashscope/qwen3.8-flash",
    "dashscope/qwen3.8-max",
}


def ours(price: ModelPrice, input_tokens: int) -> tuple[Decimal, Decimal]:
    """Input and output price per million tokens of a call with so many input tokens."""
    tier = next((t for t in reversed(price.tiers) if input_tokens > t["threshold"]), None)
    row = tier or {"input_per_mtok": price.input_per_mtok, "output_per_mtok": price.output_per_mtok}
    return Decimal(row["input_per_mtok"]), Decimal(row["output_per_mtok"])


def theirs(profile: ModelProfile, input_tokens: int, at: datetime = AT) -> tuple[Decimal, Decimal]:
    """The same from the independent table. LookupError if it does not know the model."""
    result = calc_price(
        Usage(input_tokens=input_tokens, output_tokens=input_tokens),
        profile.upstream_model,
        provider_id={"xai": "x-ai"}.get(profile.provider.slug, profile.provider.slug),
        genai_request_timestamp=at,
    )
    return result.input_price * MILLION / input_tokens, result.output_price * MILLION / input_tokens


def chat_profiles() -> list[ModelProfile]:
    catalog_load()
    return list(ModelProfile.objects.filter(model__mode="chat").select_related("provider", "model"))


@pytest.mark.parametrize("input_tokens", [1_000, MILLION])
def test_chat_prices_equal_an_independent_table_except_where_listed(input_tokens: int) -> None:
    profiles = [profile for profile in chat_profiles() if profile.slug not in UNKNOWN_THERE]

    found = {p.slug: (ours(model_price_at(p, AT), input_tokens), theirs(p, input_tokens)) for p in profiles}

    assert len(found) == 55
    assert {slug: pair for slug, pair in found.items() if pair[0] != pair[1]} == {
        slug: (tuple(map(Decimal, left)), tuple(map(Decimal, right))) for slug, (left, right) in KNOWN_DIFFERENCES.items()
    }


def test_the_table_knows_nothing_of_those_left_out() -> None:
    profiles = [profile for profile in chat_profiles() if profile.slug in UNKNOWN_THERE]

    known = []
    for profile in profiles:
        with pytest.raises(LookupError):
            known.append(theirs(profile, MILLION))

    assert (len(profiles), known) == (4, [])


def test_deepseek_is_listed_at_its_peak_price() -> None:
    profiles = [p for p in chat_profiles() if p.provider.slug == "deepseek"]

    found = [(ours(model_price_at(p, AT), MILLION), theirs(p, MILLION, DEEPSEEK_PEAK)) for p in profiles]

    assert [left == right for left, right in found] == [True, True]


@pytest.mark.parametrize("slug", ["google/gemini-4-argon", "google/gemini-3.8-flash"])
def test_announced_prices_take_over_on_their_day(slug: str) -> None:
    profile = next(profile for profile in chat_profiles() if profile.slug == slug)

    later = datetime(2027, 1, 2, tzinfo=UTC)

    assert ours(model_price_at(profile, later), 1_000) == theirs(profile, 1_000, later)
    assert model_price_at(profile, later).input_per_mtok == 2 * model_price_at(profile, AT).input_per_mtok


@pytest.mark.parametrize(
    ("profile", "cache_read", "cache_write", "cache_write_1h"),
    [
        ("openai/gpt-6.1-sol", "0.1", "2.5", None),
        ("anthropic/claude-opus-5-5", "0.2", "5", "8"),
        ("openrouter/claude-opus-5-5", "0.2", "5", None),
        # Writing to Gemini's cache costs the input price and five minutes of storage.
        ("openrouter/gemini-3.8-flash", "0.075", "0.791666667", None),
        # No surcharge for writing: written tokens cost the input price, never nothing.
        ("deepseek/deepseek-v4.1-flash", "0.006", None, None),
        ("groq/llama-3.3-70b", None, None, None),
    ],
)
def test_cache_prices(profile: str, cache_read: str | None, cache_write: str | None, cache_write_1h: str | None) -> None:
    catalog_load()

    found = ModelPrice.objects.values_list("cached_input_per_mtok", "cache_write_per_mtok", "cache_write_1h_per_mtok").get(
        profile__slug=profile, effective_from__lte=AT
    )

    assert found == tuple(None if price is None else Decimal(price) for price in (cache_read, cache_write, cache_write_1h))


def test_an_unknown_price_is_no_row_and_nothing_is_listed_as_free() -> None:
    catalog_load()

    without = list(ModelProfile.objects.filter(prices__isnull=True).values_list("slug", flat=True))
    columns = ["input_per_mtok", "cached_input_per_mtok", "cache_write_per_mtok", "output_per_mtok"]
    listed = [value for row in ModelPrice.objects.values_list(*columns) for value in row if value is not None]
    units = [Decimal(value) for row in ModelPrice.objects.all() for value in row.units.values()]

    assert without == ["elevenlabs/music_v1"]
    assert min(listed) > 0
    assert min(units) > 0


def test_every_chat_profile_has_both_an_input_and_an_output_price_now() -> None:
    profiles = chat_profiles()

    prices = [model_price_at(profile, AT) for profile in profiles]

    assert len(profiles) == 59
    assert [p.profile.slug for p in prices if p is None or p.input_per_mtok is None or p.output_per_mtok is None] == []


def test_free_tiers_cost_nothing_within_their_caps_and_are_listed_at_the_paid_price() -> None:
    catalog_load()

    free = ModelProfile.objects.filter(cost_factor=0).order_by("slug")

    assert [(p.slug, p.upstream_model, p.model.name, p.requests_per_minute, p.requests_per_day) for p in free] == [
        ("google/gemini-2.5-flash:free", "gemini-2.5-flash", "gemini-2.5-flash", 10, 250),
        ("groq/llama-3.3-70b:free", "llama-3.3-70b-versatile", "llama-3.3-70b", 30, 1000),
    ]
    assert [ours(model_price_at(p, AT), 1_000) for p in free] == [
        (Decimal("0.3"), Decimal("2.5")),
        (Decimal("0.59"), Decimal("0.79")),
    ]
    assert ModelProfile.objects.exclude(cost_factor__in=[0, 1]).count() == 0


@pytest.mark.parametrize(
    ("name", "owner", "aliases", "profiles"),
    [
        (
            "gpt-6.1-sol",
            "openai",
            ["openai/gpt-6.1-sol"],
            [("openai/gpt-6.1-sol", "gpt-6.1-sol"), ("openrouter/gpt-6.1-sol", "openai/gpt-6.1-sol")],
        ),
        (
            "claude-opus-5-5",
            "anthropic",
            ["claude-opus-5.5", "anthropic/claude-opus-5.5"],
            [
                ("anthropic/claude-opus-5-5", "claude-opus-5-5"),
                ("openrouter/claude-opus-5-5", "anthropic/claude-opus-5.5"),
            ],
        ),
        (
            "gpt-oss-120b",
            "openai",
            ["openai/gpt-oss-120b"],
            [("groq/gpt-oss-120b", "openai/gpt-oss-120b"), ("together/gpt-oss-120b", "openai/gpt-oss-120b")],
        ),
        (
            "llama-3.3-70b",
            "meta",
            [
                "llama-3.3-70b-versatile",
                "meta-llama/llama-3.3-70b-instruct",
                "meta-llama/Llama-3.3-70B-Instruct-Turbo",
            ],
            [
                ("groq/llama-3.3-70b", "llama-3.3-70b-versatile"),
                ("groq/llama-3.3-70b:free", "llama-3.3-70b-versatile"),
                ("openrouter/llama-3.3-70b", "meta-llama/llama-3.3-70b-instruct"),
                ("together/llama-3.3-70b", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
            ],
        ),
        (
            "deepseek-v4.1-flash",
            "deepseek",
            ["deepseek/deepseek-v4.1-flash", "deepseek-flash", "deepseek-ai/DeepSeek-V4.1-Flash"],
            [
                ("deepseek/deepseek-v4.1-flash", "deepseek-flash"),
                ("openrouter/deepseek-v4.1-flash", "deepseek/deepseek-v4.1-flash"),
                ("together/deepseek-v4.1-flash", "deepseek-ai/DeepSeek-V4.1-Flash"),
            ],
        ),
    ],
)
def test_one_public_name_whoever_serves_it(name: str, owner: str, aliases: list[str], profiles: list[tuple[str, str]]) -> None:
    catalog_load()

    model = AiModel.objects.get(name=name)

    assert (model.owner, model.aliases) == (owner, aliases)
    assert list(model.profiles.values_list("slug", "upstream_model")) == profiles


def test_models_that_think_are_marked() -> None:
    catalog_load()

    plain = AiModel.objects.filter(mode="chat", reasoning=False).values_list("name", flat=True)

    assert set(plain) == {
        "claude-fable-5-2",
        "claude-haiku-4-5",
        "claude-haiku-5-5",
        "claude-opus-4-8",
        "claude-opus-5-5",
        "claude-sonnet-4-6",
        "claude-sonnet-5-5",
        "codestral-2508",
        "command-a-03-2025",
        "command-r7b-12-2024",
        "gemini-2.5-flash-lite",
        "gpt-4.1-mini",
        "gpt-4o-mini",
        "llama-3.1-8b",
        "llama-3.3-70b",
        "mistral-large-2512",
        "mistral-large-4",
        "mistral-medium-3-5",
        "mistral-small-2603",
        "qwen-plus",
    }


def test_a_context_window_covers_the_largest_input_known() -> None:
    catalog_load()

    assert ModelProfile.objects.get(slug="openai/gpt-4.1-mini").context_window == 1_047_576
    assert ModelProfile.objects.get(slug="openai/gpt-5.4-mini").context_window == 400_000
    assert not ModelProfile.objects.filter(model__mode="chat", context_window=None).exists()


def test_a_model_past_its_retirement_is_switched_off() -> None:
    catalog_load()

    off = ModelProfile.objects.filter(enabled=False).values_list("slug", "retires_on")

    assert list(off) == [("together/llama-3.3-70b", date(2026, 10, 22))]
    assert ModelProfile.objects.get(slug="openai/gpt-5-mini").retires_on == date(2026, 12, 11)


def test_providers_are_the_presets() -> None:
    catalog_load()

    found = {p.slug: (p.name, p.protocol, p.base_url, p.quirks) for p in Provider.objects.all()}

    assert found == {p.slug: (p.display_name, p.protocol, p.base_url, sorted(p.quirks)) for p in PRESETS.values()}
    assert list(Provider.objects.values_list("slug", flat=True))[:3] == ["groq", "google", "openrouter"]
