"""OpenAI's chat dialect, which is the normal form: answers pass as they are."""

from typing import TYPE_CHECKING, Any

from iafactory.common.errors import ApiError, openai_body
from iafactory.common.rendering import encode_json

from ..providers.base import ChatChunk, Usage

if TYPE_CHECKING:
    from ..chat_call import ChatCall


def usage_body(usage: Usage) -> dict[str, Any]:
    """`usage` as OpenAI writes it."""
    return {
        "prompt_tokens": usage.input_total,
        "completion_tokens": usage.output_total,
        "total_tokens": usage.input_total + usage.output_total,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def completion(call: "ChatCall") -> dict[str, Any]:
    """The whole answer; its usage is what was billed."""
    answer = call.outcome.answer
    assert answer is not None
    return answer.body | {"usage": answer.body.get("usage") or usage_body(call.outcome.usage or Usage())}


def _usage_chunk(call: "ChatCall") -> bytes:
    """The usage event of a stream whose provider sent none: our own count."""
    outcome = call.outcome
    return encode_json(
        {
            "id": f"chatcmpl-{call.id}",
            "object": "chat.completion.chunk",
            "created": int(call.started_at.timestamp()),
            "model": outcome.served.route.model if outcome.served else call.request.model,
            "choices": [],
            "usage": usage_body(outcome.usage or Usage()),
        }
    )


class OpenAIChat:
    """Chat completions, whole and as server-sent events."""

    def whole(self, call: "ChatCall") -> bytes:
        return encode_json(completion(call))

    def event(self, chunk: ChatChunk) -> bytes:
        return b"data: " + chunk.data + b"\n\n"

    def end(self, call: "ChatCall") -> bytes:
        events = (call.outcome.usage_chunks or [_usage_chunk(call)]) if call.request.include_usage else []
        return b"".join(b"data: " + event + b"\n\n" for event in [*events, b"[DONE]"])

    def failed(self, error: ApiError) -> bytes:
        return b"data: " + encode_json(openai_body(error)) + b"\n\n"

    def field_name(self, name: str) -> str:
        return name
