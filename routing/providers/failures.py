"""From whatever a provider (or the network) says to a `ProviderError`, for every adapter.

Evidence in this order: an explicit code in the body, the status, nothing else. Bodies may be HTML, wrapped in a list,
or carry the error in any of half a dozen places.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from routing.providers.base import FailureClass, ProviderError
from routing.providers.http1 import ConnectFailed, InvalidUrl

MAX_ERROR_BYTES = 64 * 1024
_DETAIL_CHARACTERS = 500

_PUBLIC_MESSAGES: Mapping[FailureClass, str] = {
    FailureClass.BAD_REQUEST: "The provider rejected the request.",
    FailureClass.REFUSED: "The provider refused the request because of its content policy.",
    # Clients need not know which of our accounts is in trouble: these two read the same.
    FailureClass.AUTH: "The provider cannot serve this request at the moment.",
    FailureClass.NO_FUNDS: "The provider cannot serve this request at the moment.",
    FailureClass.RATE_LIMITED: "The provider is receiving too many requests; try again later.",
    FailureClass.OVERLOADED: "The provider is overloaded or did not answer in time; try again later.",
    FailureClass.INTERNAL: "The provider failed to answer.",
    FailureClass.TRUNCATED: "The provider's answer broke off before its end.",
}

_BY_CODE: Mapping[str, FailureClass] = {
    "context_length_exceeded": FailureClass.BAD_REQUEST,
    "max_tokens_exceeded": FailureClass.BAD_REQUEST,
    "token_limit_exceeded": FailureClass.BAD_REQUEST,
    "string_too_long": FailureClass.BAD_REQUEST,
    "string_above_max_length": FailureClass.BAD_REQUEST,
    "invalid_request": FailureClass.BAD_REQUEST,
    "invalid_prompt": FailureClass.BAD_REQUEST,
    "unsupported_parameter": FailureClass.BAD_REQUEST,
    "invalid_value": FailureClass.BAD_REQUEST,
    "not_found": FailureClass.BAD_REQUEST,
    "model_not_found": FailureClass.BAD_REQUEST,
    "ModelNotFound": FailureClass.BAD_REQUEST,
    "precondition_failed": FailureClass.BAD_REQUEST,
    "payload_too_large": FailureClass.BAD_REQUEST,
    "request_too_large": FailureClass.BAD_REQUEST,
    "not_found_error": FailureClass.BAD_REQUEST,
    "conflict_error": FailureClass.BAD_REQUEST,
    "unprocessable": FailureClass.BAD_REQUEST,
    "content_policy_violation": FailureClass.REFUSED,
    "moderation_blocked": FailureClass.REFUSED,
    "content_filter": FailureClass.REFUSED,
    "data_inspection_failed": FailureClass.REFUSED,
    "DataInspectionFailed": FailureClass.REFUSED,
    "refusal": FailureClass.REFUSED,
    "invalid_api_key": FailureClass.AUTH,
    "API_KEY_INVALID": FailureClass.AUTH,
    "authentication": FailureClass.AUTH,
    "authentication_error": FailureClass.AUTH,
    "account_deactivated": FailureClass.AUTH,
    "permission_denied": FailureClass.AUTH,
    "permission_error": FailureClass.AUTH,
    "access_denied": FailureClass.AUTH,
    "insufficient_quota": FailureClass.NO_FUNDS,
    "credit_balance_exhausted": FailureClass.NO_FUNDS,
    "billing_not_active": FailureClass.NO_FUNDS,
    "billing_hard_limit_reached": FailureClass.NO_FUNDS,
    "Arrearage": FailureClass.NO_FUNDS,
    "payment_required": FailureClass.NO_FUNDS,
    "billing_error": FailureClass.NO_FUNDS,
    "enforced_spend_limit_reached": FailureClass.NO_FUNDS,
    "contract_spend_limit_reached": FailureClass.NO_FUNDS,
    "linked_organization_billing_unavailable": FailureClass.NO_FUNDS,
    "linked_organization_spend_limit_reached": FailureClass.NO_FUNDS,
    "rate_limit_exceeded": FailureClass.RATE_LIMITED,
    "rate_limit_error": FailureClass.RATE_LIMITED,
    "Throttling": FailureClass.RATE_LIMITED,
    "Throttling.RateQuota": FailureClass.RATE_LIMITED,
    "Throttling.AllocationQuota": FailureClass.RATE_LIMITED,
    # These two refuse one call for the money already reserved by others, not for an empty account.
    "in_flight_budget_exhausted": FailureClass.RATE_LIMITED,
    "weight_exceeds_budget": FailureClass.RATE_LIMITED,
    "server_is_overloaded": FailureClass.OVERLOADED,
    "overloaded_error": FailureClass.OVERLOADED,
    "capacity_exceeded": FailureClass.OVERLOADED,
    "provider_unavailable": FailureClass.OVERLOADED,
    "provider_overloaded": FailureClass.OVERLOADED,
    "service_unavailable_error": FailureClass.OVERLOADED,
    "timeout": FailureClass.OVERLOADED,
    "timeout_error": FailureClass.OVERLOADED,
}

_BY_STATUS: Mapping[int, FailureClass] = {
    400: FailureClass.BAD_REQUEST,
    401: FailureClass.AUTH,
    402: FailureClass.NO_FUNDS,
    403: FailureClass.AUTH,
    404: FailureClass.BAD_REQUEST,
    408: FailureClass.OVERLOADED,
    413: FailureClass.BAD_REQUEST,
    414: FailureClass.BAD_REQUEST,
    415: FailureClass.BAD_REQUEST,
    422: FailureClass.BAD_REQUEST,
    429: FailureClass.RATE_LIMITED,
    498: FailureClass.OVERLOADED,
    502: FailureClass.OVERLOADED,
    503: FailureClass.OVERLOADED,
    504: FailureClass.OVERLOADED,
    529: FailureClass.OVERLOADED,
}

_CONTEXT_CODES = frozenset({"context_length_exceeded", "max_tokens_exceeded", "token_limit_exceeded"})

# What looks like a credential or an account of ours, masked by the provider or not.
_OURS = re.compile(r"\b(?:sk|gsk|xai)[-_][\w*.-]{4,}|\bxa\*+\w*|\bAIza[\w-]{10,}|\b(?:org|proj)[-_][A-Za-z0-9]{8,}")
# Anchored: a message that quotes a client must not look like a bad key of ours.
_WRONG_KEY = re.compile(r"(?:incorrect|invalid) api key|api key not valid", re.IGNORECASE)
_OUR_ACCOUNT_IS_EMPTY = re.compile(
    r"your credit balance is too low|you have reached your specified|(?:your|the) (?:organization|workspace)\b.*\bspend",
    re.IGNORECASE,
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def public_message(failure: FailureClass) -> str:
    """The sentence clients read when the provider's own words may not be shown."""
    return _PUBLIC_MESSAGES[failure]


def redact(text: str, secret: str) -> str:
    """`text` without our key (whole or masked) and without our organisation or project id."""
    if secret:
        text = text.replace(secret, "***")
    return _OURS.sub("***", text)


def parse_json(raw: bytes) -> Any:
    """The JSON value of a body, blank lines around it allowed; None if it is not JSON."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def find_error(payload: Any) -> dict[str, Any] | None:
    """The error object in a body, wherever this provider puts it; None if the body reports no error."""
    if isinstance(payload, list):
        return find_error(payload[0]) if payload else None
    if not isinstance(payload, dict):
        return None
    error = payload.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str) and error:
        return {"message": error, "code": payload.get("code")}
    detail = payload.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        location = [str(part) for part in detail[0].get("loc") or () if part != "body"]
        return {
            "message": str(detail[0].get("msg") or ""),
            "type": "invalid_request_error",
            "param": ".".join(location) or None,
        }
    if isinstance(detail, dict):
        return {**detail, "code": detail.get("code") or detail.get("status")}
    if isinstance(detail, str) and detail:
        return {"message": detail}
    if payload.get("object") == "error" or ("message" in payload and "choices" not in payload):
        return payload
    return None


def classify(
    status: int | None, error: Mapping[str, Any], quirks: frozenset[str] = frozenset()
) -> tuple[FailureClass, str | None]:
    """The failure class of an error object and the code that decided it. `status` is None inside a stream."""
    metadata = error.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    code = _text(error.get("code"))
    details = error.get("details")
    precise = _text(details.get("error_code")) if isinstance(details, dict) else None
    codes = [
        name
        for name in (precise, _text(metadata.get("error_type")), code, *_google_reasons(error), _text(error.get("type")))
        if name
    ]
    if status is None and code is not None and code.isdigit() and 400 <= int(code) <= 599:
        status = int(code)
    if status == 403 and not metadata.get("error_type") and ("flagged_input" in metadata or "reasons" in metadata):
        return FailureClass.REFUSED, "content_policy_violation"
    if status == 403 and "limit_source" in metadata:
        return FailureClass.NO_FUNDS, code
    if status == 403 and "forbidden_is_too_long" in quirks:
        return FailureClass.BAD_REQUEST, "context_length_exceeded"
    if status == 498 and "status_498_is_auth" in quirks:
        return FailureClass.AUTH, code
    if status == 400 and "bad_key_is_400" in quirks and _WRONG_KEY.match(_text(error.get("message")) or "") is not None:
        return FailureClass.AUTH, "invalid_api_key"
    if status == 400 and "no_funds_is_400" in quirks and _OUR_ACCOUNT_IS_EMPTY.match(_text(error.get("message")) or ""):
        return FailureClass.NO_FUNDS, precise or "billing_error"
    if status == 429 and "insufficient_quota_is_rate" in quirks and "insufficient_quota" in codes:
        return FailureClass.RATE_LIMITED, "insufficient_quota"
    for name in codes:
        failure = _BY_CODE.get(name)
        if failure is not None:
            return failure, "context_length_exceeded" if name in _CONTEXT_CODES else name
    names = [code, precise, error.get("status"), error.get("type")]
    code = next((name for name in names if isinstance(name, str) and name and not name.isdigit()), code)
    if status is None:
        return FailureClass.INTERNAL, code
    return _BY_STATUS.get(status, FailureClass.INTERNAL), code


def http_failure(
    status: int,
    headers: Mapping[str, str],
    raw: bytes,
    *,
    secret: str,
    quirks: frozenset[str] = frozenset(),
    may_have_billed: bool = False,
) -> ProviderError:
    """The error of an HTTP answer (or of a 200 whose body is an error: then `may_have_billed` is True)."""
    payload = parse_json(raw)
    error = find_error(payload) or {}
    return error_object_failure(
        status if status >= 300 else None,
        error,
        secret=secret,
        quirks=quirks,
        retry_after_seconds=retry_after(headers, error),
        # A gateway timeout says nothing about what the model did meanwhile.
        may_have_billed=may_have_billed or status in (408, 504),
        reported_status=status,
    )


def error_object_failure(
    status: int | None,
    error: Mapping[str, Any],
    *,
    secret: str,
    quirks: frozenset[str] = frozenset(),
    retry_after_seconds: float | None = None,
    may_have_billed: bool = True,
    reported_status: int | None = None,
) -> ProviderError:
    """The error of an error object, in a body or inside a stream (`status` None). See `classify`."""
    failure, code = classify(status, error, quirks)
    said = redact(_text(error.get("message")) or "", secret)
    own_words = failure in (FailureClass.BAD_REQUEST, FailureClass.REFUSED) and said
    return ProviderError(
        failure,
        said if own_words else public_message(failure),
        status=reported_status if reported_status is not None else status,
        code=code,
        param=_text(error.get("param")),
        retry_after_seconds=retry_after_seconds if retry_after_seconds is not None else _hint_in_body(error),
        may_have_billed=may_have_billed,
        detail=said[:_DETAIL_CHARACTERS],
    )


def network_failure(error: BaseException) -> ProviderError:
    """The error of a call that got no (whole) answer. Only a failure to connect is surely not billed."""
    sent = True
    code = "connection_error"
    if isinstance(error, ConnectFailed):
        sent = False
    elif isinstance(error, InvalidUrl):
        return ProviderError(
            FailureClass.INTERNAL, public_message(FailureClass.INTERNAL), code="invalid_url", detail="invalid base URL"
        )
    if isinstance(error, asyncio.TimeoutError):
        code = "timeout"
    return ProviderError(
        FailureClass.OVERLOADED,
        public_message(FailureClass.OVERLOADED),
        code=code,
        may_have_billed=sent,
        detail=type(error).__name__,
    )


def retry_after(headers: Mapping[str, str], error: Mapping[str, Any]) -> float | None:
    """Seconds to wait, from the first source that says so: headers in ms, in seconds or as a date, the body, limits."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    if (value := headers.get("retry-after")) is not None:
        seconds = _number(value)
        if seconds is None:
            seconds = _seconds_until(value)
        if seconds is not None:
            return seconds
    hint = _hint_in_body(error)
    return hint if hint is not None else _limit_reset(headers)


def _hint_in_body(error: Mapping[str, Any]) -> float | None:
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(detail.get("retryDelay"), str):
            return _duration(detail["retryDelay"])
    availability = error.get("availability")
    if isinstance(availability, dict):
        return _number(availability.get("retry_after"))
    return None


def _limit_reset(headers: Mapping[str, str]) -> float | None:
    """From rate-limit headers: the longest wait among the exhausted limits, or among all if none says so.

    Anthropic's carry a moment instead of a duration, on every answer: there only exhausted limits tell a wait.
    """
    exhausted: list[float] = []
    others: list[float] = []
    for kind in ("", "-requests", "-tokens"):
        value = headers.get(f"x-ratelimit-reset{kind}")
        seconds = _duration(value) if value else None
        if seconds is not None:
            spent = headers.get(f"x-ratelimit-remaining{kind}") == "0"
            (exhausted if spent else others).append(seconds)
    for kind in ("requests", "tokens", "input-tokens", "output-tokens"):
        if headers.get(f"anthropic-ratelimit-{kind}-remaining") == "0":
            moment = headers.get(f"anthropic-ratelimit-{kind}-reset")
            seconds = _seconds_until_iso(moment) if moment else None
            if seconds is not None:
                exhausted.append(seconds)
    return max(exhausted or others, default=None)


def reset_seconds(text: str) -> float | None:
    """Seconds until a limit is refilled, from a duration (OpenAI's) or an RFC 3339 instant (Anthropic's)."""
    return _seconds_until_iso(text) if "T" in text else _duration(text)


def _duration(text: str) -> float | None:
    """Seconds in `12ms`, `1.75s`, `6m0s`, a bare number of seconds, or until a Unix time in seconds or milliseconds."""
    number = _number(text)
    if number is not None:
        if number > 1e11:
            number /= 1000
        return max(0.0, number - datetime.now(UTC).timestamp()) if number > 1e9 else number
    parts = _DURATION.findall(text)
    return sum(float(amount) * _UNIT_SECONDS[unit] for amount, unit in parts) if parts else None


def _seconds_until(date: str) -> float | None:
    try:
        return _seconds_to(parsedate_to_datetime(date))
    except ValueError:
        return None


def _seconds_until_iso(date: str) -> float | None:
    try:
        return _seconds_to(datetime.fromisoformat(date))
    except ValueError:
        return None


def _seconds_to(moment: datetime) -> float:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _number(value: Any) -> float | None:
    """A finite number that is not negative, also from text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _google_reasons(error: Mapping[str, Any]) -> list[str]:
    details = error.get("details")
    if not isinstance(details, list):
        return []
    return [item["reason"] for item in details if isinstance(item, dict) and isinstance(item.get("reason"), str)]


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None
