"""What is known about companies: where their API lives, which protocol it speaks, how it deviates. Data, no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

QUIRKS: Mapping[str, str] = {
    "max_completion_tokens": "Wants max_completion_tokens; max_tokens is renamed.",
    "max_tokens_only": "Knows only max_tokens; max_completion_tokens is renamed.",
    "no_stream_options": "Rejects or ignores stream_options; usage comes unasked.",
    "random_seed": "Calls seed random_seed.",
    "tool_choice_any": "Calls tool_choice 'required' 'any'.",
    "bad_key_is_400": "Answers 400 to a wrong API key.",
    "no_funds_is_400": "Answers 400 when the account has no credit left or has reached its own spend limit.",
    "no_sampling": "Speaks Anthropic's version 2026-10-21: temperature, top_p and top_k are left out for every model.",
    "forbidden_is_too_long": "Answers 403 when input and max_tokens exceed the context.",
    "status_498_is_auth": "Answers 498 to an invalid token (elsewhere 498 means no capacity).",
    "single_choice": "Answers one choice only: n above 1 is refused.",
    "no_logprobs": "Refuses logprobs and top_logprobs.",
    "no_logit_bias": "Refuses logit_bias.",
    "no_top_k": "Refuses top_k: it is left out.",
    "effort_if_reasoning": "Refuses reasoning_effort for models that do not reason: it is left out.",
    "no_sampling_if_reasoning": "Refuses temperature, top_p and penalties for models that reason: they are left out.",
    "insufficient_quota_is_rate": "Code insufficient_quota is a rate limit, not an empty account.",
}
"""Every quirk an adapter understands, and what it means."""

REASONING_MODEL = "reasoning_model"
"""Not a company's but a model's own: set by whoever makes the target of a model that reasons."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A company as shipped: `slug` names it for good, the rest may be edited by operators."""

    slug: str
    display_name: str
    protocol: str
    base_url: str
    quirks: frozenset[str] = frozenset()


PRESETS: Mapping[str, Preset] = {
    preset.slug: preset
    for preset in (
        Preset(
            "openai",
            "OpenAI",
            "openai",
            "https://api.openai.com/v1",
            frozenset({"max_completion_tokens", "no_top_k", "effort_if_reasoning", "no_sampling_if_reasoning"}),
        ),
        Preset(
            "groq",
            "Groq",
            "openai",
            "https://api.groq.com/openai/v1",
            frozenset({"single_choice", "no_logprobs", "no_logit_bias", "no_top_k", "effort_if_reasoning"}),
        ),
        Preset("openrouter", "OpenRouter", "openai", "https://openrouter.ai/api/v1", frozenset({"max_tokens_only"})),
        Preset("deepseek", "DeepSeek", "openai", "https://api.deepseek.com", frozenset({"max_tokens_only", "no_top_k"})),
        Preset("xai", "xAI", "openai", "https://api.x.ai/v1", frozenset({"bad_key_is_400", "no_top_k"})),
        Preset(
            "mistral",
            "Mistral",
            "openai",
            "https://api.mistral.ai/v1",
            frozenset({"max_tokens_only", "no_stream_options", "random_seed", "tool_choice_any", "no_top_k"}),
        ),
        Preset(
            "together",
            "Together AI",
            "openai",
            "https://api.together.ai/v1",
            frozenset({"max_tokens_only", "forbidden_is_too_long"}),
        ),
        Preset(
            "dashscope",
            "Qwen (Alibaba Cloud)",
            "openai",
            "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
            frozenset({"max_tokens_only", "insufficient_quota_is_rate"}),
        ),
        Preset("google", "Google Gemini", "gemini", "https://generativelanguage.googleapis.com/v1beta"),
        Preset("cohere", "Cohere", "cohere", "https://api.cohere.com/v2", frozenset({"status_498_is_auth"})),
        Preset("anthropic", "Anthropic", "anthropic", "https://api.anthropic.com", frozenset({"no_funds_is_400"})),
        Preset("elevenlabs", "ElevenLabs", "elevenlabs", "https://api.elevenlabs.io"),
        Preset("stability", "Stability AI", "stability", "https://api.stability.ai"),
    )
}
