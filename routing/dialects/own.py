"""The product's own chat dialect: one answer, who gave it and what it cost."""

from typing import TYPE_CHECKING, Any

from iafactory.common.money import plain
from iafactory.common.rendering import encode_json

from ..providers.base import Usage
from .openai import OpenAIChat, completion, usage_body

if TYPE_CHECKING:
    from ..chat_call import ChatCall


def facts(call: "ChatCall") -> dict[str, Any]:
    """Who served a call, and what it cost."""
    outcome = call.outcome
    assert outcome.served is not None
    return {
        "provider": outcome.served.route.provider,
        "model": outcome.served.route.model,
        "cost": plain(outcome.cost_usd),
        "credits": plain(outcome.charged),
        "fallback": call.fallback,
        "budget_fallback": call.budget_fallback,
        "attempts": outcome.attempts,
    }


class OwnDialect(OpenAIChat):
    """Whole answers in the product's own shape; streams as OpenAI's, with the facts of the call before their end."""

    def whole(self, call: "ChatCall") -> bytes:
        return encode_json(self._answer(call))

    def end(self, call: "ChatCall") -> bytes:
        usage = usage_body(call.outcome.usage or Usage())
        told = {"object": "chat.facts", "request_id": str(call.id), **facts(call), "usage": usage}
        return b"data: " + encode_json(told) + b"\n\n" + super().end(call)

    def _answer(self, call: "ChatCall") -> dict[str, Any]:
        body = completion(call)
        choice = body["choices"][0] if body["choices"] else {"message": {}, "finish_reason": None}
        return {
            "request_id": str(call.id),
            "response": choice["message"].get("content") or "",
            "message": choice["message"],
            "finish_reason": choice.get("finish_reason"),
            **facts(call),
            "usage": body["usage"],
        }


class RouteDialect(OwnDialect):
    """The same with `cost_units`: what was charged of those the caller allowed, in credits."""

    def _answer(self, call: "ChatCall") -> dict[str, Any]:
        return super()._answer(call) | {"cost_units": plain(call.outcome.charged)}
