"""The product's own chat dialect: one answer, who gave it and what it cost."""

from typing import TYPE_CHECKING

from iafactory.common.money import plain
from iafactory.common.rendering import encode_json

from .openai import OpenAIChat, completion

if TYPE_CHECKING:
    from ..chat_call import ChatCall


class OwnDialect(OpenAIChat):
    """Whole answers only: its endpoints do not stream."""

    def whole(self, call: "ChatCall") -> bytes:
        outcome = call.outcome
        assert outcome.served is not None
        body = completion(call)
        choice = body["choices"][0] if body["choices"] else {"message": {}, "finish_reason": None}
        return encode_json(
            {
                "request_id": str(call.id),
                "response": choice["message"].get("content") or "",
                "message": choice["message"],
                "finish_reason": choice.get("finish_reason"),
                "provider": outcome.served.route.provider,
                "model": outcome.served.route.model,
                "cost": plain(outcome.cost_usd),
                "credits": plain(outcome.charged),
                "fallback": call.fallback,
                "budget_fallback": call.budget_fallback,
                "attempts": outcome.attempts,
                "usage": body["usage"],
            }
        )
