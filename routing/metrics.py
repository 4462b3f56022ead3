"""What the gateway counts of its calls. Labels are slugs of the catalogue and fixed words: bounded."""

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

from iafactory.common.metrics import LATENCY_BUCKETS, Bounded, SummedHistogram, Tally

if TYPE_CHECKING:
    from .pipeline import ModelCall

calls = Counter("iafactory_calls", "Calls that were settled.", ("endpoint", "provider", "model", "end"))
latency = SummedHistogram(
    "iafactory_call_seconds", "From the request to its settle.", ("endpoint", "provider"), buckets=LATENCY_BUCKETS
)
first_byte = SummedHistogram(
    "iafactory_first_byte_seconds", "From the request to the first byte for the client.", ("provider",), buckets=LATENCY_BUCKETS
)
tokens = Counter("iafactory_tokens", "Tokens of settled calls.", ("provider", "kind"))
units = Counter("iafactory_units", "What is billed beside tokens: images, characters, seconds, clips.", ("provider", "unit"))
cost = Counter("iafactory_provider_cost_usd", "What providers charge us.", ("provider",))
credits_charged = Counter("iafactory_credits_charged", "Credits taken for calls.", ("plan",))
fallbacks = Counter("iafactory_fallbacks", "Calls that somebody else than the first choice served.", ("reason",))
failures = Counter("iafactory_provider_failures", "Attempts that failed, by failure class.", ("provider", "failure"))
running = Gauge("iafactory_calls_running", "Calls under way.", multiprocess_mode="livesum")

tally = Tally()
_plan = Bounded()
_Children = tuple[Counter, SummedHistogram, SummedHistogram, Counter, Counter, Counter, Counter]
_plans: dict[str, Counter] = {}
_children: dict[tuple[str, str, str, str], _Children] = {}


def _of(endpoint: str, provider: str, model: str, end: str) -> _Children:
    """The metrics of one combination of labels, found once; the catalogue bounds how many there are."""
    key = (endpoint, provider, model, end)
    found = _children.get(key)
    if found is None:
        found = _children[key] = (
            calls.labels(*key),
            latency.labels(endpoint, provider),
            first_byte.labels(provider),
            tokens.labels(provider, "input"),
            tokens.labels(provider, "cached_input"),
            tokens.labels(provider, "output"),
            cost.labels(provider),
        )
    return found


def _charged_to(plan: str) -> Counter:
    found = _plans.get(plan)
    if found is None:
        found = _plans[plan] = credits_charged.labels(_plan(plan))
    return found


def call_ended(call: "ModelCall") -> None:
    """Count one call that is settled, or queued to be."""
    outcome = call.outcome
    served = outcome.served
    provider, model = ("none", "none") if served is None else (served.route.provider, served.route.model)
    ended, took, first, tokens_in, cached, tokens_out, cost_usd = _of(call.endpoint, provider, model, outcome.end)
    add = tally.add
    add(ended)
    tally.set(running, len(call.gateway.running))
    tally.observe(took, call.elapsed_ms() / 1000)
    if outcome.first_byte_ms is not None:
        tally.observe(first, outcome.first_byte_ms / 1000)
    usage = outcome.usage
    if usage is not None and served is not None:
        add(tokens_in, usage.input_total)
        add(tokens_out, usage.output_total)
        if usage.cache_read:
            add(cached, usage.cache_read)
        for unit, quantity in usage.units.items():
            add(units.labels(provider, unit), float(quantity))
    if outcome.cost_usd:
        add(cost_usd, float(outcome.cost_usd))
    if outcome.charged:
        add(_charged_to(call.plan.code), float(outcome.charged))
    if call.budget_fallback:
        add(fallbacks.labels("budget"))
    elif call.fallback:
        add(fallbacks.labels("provider"))


def attempt_failed(provider: str, failure: str) -> None:
    """Count one attempt that a provider did not serve."""
    failures.labels(provider, failure).inc()
