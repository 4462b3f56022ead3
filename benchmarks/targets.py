"""What must be true of the gateway, as figures; which of them a run met."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Target:
    """One figure of the gateway. `must` is the limit a run fails at, `aim` where we want to be; `at_least`: more is better."""

    key: str
    text: str
    must: float
    aim: float
    unit: str
    at_least: bool = False


class State(StrEnum):
    AIM = "aim met"
    MET = "met"
    MISSED = "MISSED"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run stands to one target. `value` is None where the run did not measure it."""

    target: Target
    value: float | None
    state: State


TARGETS = (
    Target("rate_against_litellm", "requests/s against LiteLLM, whole answers, 64 clients", 20, 40, "x", at_least=True),
    Target("rate_against_portkey", "requests/s against Portkey, whole answers, 64 clients", 2, 4, "x", at_least=True),
    Target(
        "rate_against_proxy", "requests/s against the bare proxy, whole answers, 64 clients", 0.30, 0.55, "x", at_least=True
    ),
    Target("cpu_against_proxy", "CPU per billed request against the bare proxy's", 3.5, 2, "x"),
    Target("slow_p50_over_proxy", "p50 over the bare proxy, 60 ms upstream, 64 clients", 2, 0.7, "ms"),
    Target("slow_p99_over_proxy", "p99 over the bare proxy, 60 ms upstream, 64 clients", 10, 4, "ms"),
    Target("stream_cpu_against_proxy", "CPU per stream of 50 chunks against the bare proxy's, 64 clients", 2, 1.3, "x"),
    Target("first_byte_over_direct", "time to first byte over direct, 60 ms upstream, 16 clients", 2, 0.7, "ms"),
    Target("rate_256_against_64", "requests/s at 256 clients against 64", 0.85, 0.95, "x", at_least=True),
    Target("open_stream_failures", "failures of 2,000 open slow streams in one process", 0, 0, ""),
    Target("open_stream_memory", "memory of one of 2,000 open streams", 60, 30, "KB"),
    Target("postgres_cpu_share", "PostgreSQL's CPU per request against the gateway's", 0.5, 0.2, "x"),
    Target("memory_idle", "memory of a web process, idle", 150, 115, "MB"),
    Target("memory_after_calls", "memory of a web process after 100,000 calls", 180, 125, "MB"),
    Target("console_p99", "p99 of chats while an export of 1 M rows and the operator's home run", 2, 1.2, "x"),
    Target("start_against_litellm", "start to first answer of a web process against LiteLLM's", 0.5, 0.25, "x"),
)


def judge(readings: Mapping[str, float]) -> list[Verdict]:
    """A verdict on every target. Raises KeyError for a reading that no target knows: it would count for nothing."""
    unknown = readings.keys() - {target.key for target in TARGETS}
    if unknown:
        raise KeyError(f"no target: {', '.join(sorted(unknown))}")
    return [Verdict(target, readings.get(target.key), _state(target, readings.get(target.key))) for target in TARGETS]


def missed(verdicts: list[Verdict]) -> list[Verdict]:
    """Those that make a run fail. What was not measured does not."""
    return [verdict for verdict in verdicts if verdict.state is State.MISSED]


def _state(target: Target, value: float | None) -> State:
    if value is None:
        return State.NOT_MEASURED
    if _reaches(value, target.aim, at_least=target.at_least):
        return State.AIM
    return State.MET if _reaches(value, target.must, at_least=target.at_least) else State.MISSED


def _reaches(value: float, limit: float, *, at_least: bool) -> bool:
    return value >= limit if at_least else value <= limit
