"""What the hot paths take and answer, for the API's description. They are not validated against it: see `chat_request`."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse

JSON = dict[str, Any]


def _object(properties: JSON, *, required: list[str] | None = None, description: str = "", more: bool = False) -> JSON:
    schema: JSON = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    if description:
        schema["description"] = description
    if more:
        schema["additionalProperties"] = True
    return schema


STRING: JSON = {"type": "string"}
NUMBER: JSON = {"type": "number"}
INTEGER: JSON = {"type": "integer"}
BOOLEAN: JSON = {"type": "boolean"}

MESSAGE = _object(
    {
        "role": {"type": "string", "enum": ["developer", "system", "user", "assistant", "tool", "function"]},
        "content": {"oneOf": [STRING, {"type": "array", "items": {"type": "object", "additionalProperties": True}}]},
    },
    required=["role"],
    more=True,
)
USAGE = _object({"prompt_tokens": INTEGER, "completion_tokens": INTEGER, "total_tokens": INTEGER}, more=True)

CHAT_REQUEST: JSON = {
    "application/json": _object(
        {
            "model": {"type": "string", "description": "A name from `/v1/models`, or `auto`."},
            "messages": {"type": "array", "items": MESSAGE, "minItems": 1},
            "stream": BOOLEAN,
            "stream_options": _object({"include_usage": BOOLEAN}, more=True),
            "max_completion_tokens": {"type": "integer", "minimum": 1},
            "max_tokens": {"type": "integer", "minimum": 1},
            "n": {"type": "integer", "minimum": 1},
            "temperature": NUMBER,
            "tools": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        },
        required=["model", "messages"],
        description="OpenAI's chat completion request; every other field of it is passed through.",
        more=True,
    )
}
CHAT_ANSWER = _object(
    {
        "id": STRING,
        "object": {"type": "string", "enum": ["chat.completion"]},
        "created": INTEGER,
        "model": STRING,
        "choices": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        "usage": USAGE,
    },
    more=True,
)
CHAT_EXAMPLE = OpenApiExample(
    "A first call",
    value={"model": "auto", "messages": [{"role": "user", "content": "Bonjour !"}], "max_tokens": 200},
    request_only=True,
)

OPENAI_ERROR = _object(
    {"error": _object({"message": STRING, "type": STRING, "param": STRING | {"nullable": True}, "code": STRING})}
)
ANTHROPIC_ERROR = _object(
    {
        "type": {"type": "string", "enum": ["error"]},
        "error": _object(
            {"type": STRING, "message": STRING, "details": _object({"error_code": STRING, "param": STRING}, more=True)}
        ),
        "request_id": STRING,
    }
)
PLAIN_ERROR = _object({"error": _object({"code": STRING, "message": STRING, "param": STRING, "request_id": STRING})})


def errors(body: JSON, **texts: str) -> dict[int, OpenApiResponse]:
    """Error answers for `extend_schema`: `errors(PLAIN_ERROR, _402="…")`."""
    return {int(status[1:]): OpenApiResponse(body, description=text) for status, text in texts.items()}


IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="A repetition with the same key and body gets the first answer, marked `idempotent-replayed: true`, and is not "
    "charged again. Kept for 24 hours.",
)

RUN = (
    OpenApiParameter(
        "x-iaf-run", str, OpenApiParameter.HEADER, description="Name of a run of yours; its calls share one ceiling."
    ),
    OpenApiParameter(
        "x-iaf-run-limit",
        str,
        OpenApiParameter.HEADER,
        description="Credits the run may spend in a calendar month (UTC). Beyond: 402 `run_limit_reached`.",
    ),
)

CALL_ERRORS = {
    "_400": "The request is wrong; `param` names the field.",
    "_401": "The key opens nothing.",
    "_402": "`insufficient_credits`: nothing was called or charged.",
    "_409": "`request_in_flight` or `result_not_kept`.",
    "_413": "The body is too large.",
    "_422": "`idempotency_mismatch`: the key was used for another request.",
    "_429": "`rate_limited` or `quota_exceeded`.",
    "_502": "`provider_error`: nothing was charged.",
    "_503": "`model_unavailable`, `budget_exhausted`, `provider_busy` or a part of ours is away.",
}

_ANTHROPIC_TURN = _object(
    {
        "role": {"type": "string", "enum": ["user", "assistant"]},
        "content": {"oneOf": [STRING, {"type": "array", "items": {"type": "object", "additionalProperties": True}}]},
    },
    required=["role", "content"],
)
_ANTHROPIC_INPUT: JSON = {
    "model": {"type": "string", "description": "A name from `/v1/models`, or `auto`."},
    "messages": {"type": "array", "items": _ANTHROPIC_TURN, "minItems": 1},
    "system": {"oneOf": [STRING, {"type": "array", "items": {"type": "object", "additionalProperties": True}}]},
    "tools": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
    "tool_choice": {"type": "object", "additionalProperties": True},
    "thinking": {"type": "object", "additionalProperties": True},
    "output_config": {"type": "object", "additionalProperties": True},
}
MESSAGES_REQUEST: JSON = {
    "application/json": _object(
        {
            **_ANTHROPIC_INPUT,
            "max_tokens": {"type": "integer", "minimum": 1},
            "stream": BOOLEAN,
            "stop_sequences": {"type": "array", "items": STRING},
            "temperature": NUMBER,
            "top_p": NUMBER,
            "top_k": INTEGER,
        },
        required=["model", "max_tokens", "messages"],
        description="Anthropic's request. Tools that Anthropic runs itself, and files kept there, are not offered.",
    )
}
MESSAGES_EXAMPLE = OpenApiExample(
    "A first message",
    value={"model": "auto", "max_tokens": 200, "messages": [{"role": "user", "content": "Bonjour !"}]},
    request_only=True,
)
MESSAGE_ANSWER = _object(
    {
        "id": STRING,
        "type": {"type": "string", "enum": ["message"]},
        "role": {"type": "string", "enum": ["assistant"]},
        "model": STRING,
        "content": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        "stop_reason": STRING,
        "stop_sequence": STRING | {"nullable": True},
        "usage": _object({"input_tokens": INTEGER, "output_tokens": INTEGER}, more=True),
    }
)
COUNT_TOKENS_REQUEST: JSON = {"application/json": _object(_ANTHROPIC_INPUT, required=["model", "messages"])}
COUNT_TOKENS_ANSWER = _object({"input_tokens": INTEGER})

RESPONSES_REQUEST: JSON = {
    "application/json": _object(
        {
            "model": {"type": "string", "description": "A name from `/v1/models`, or `auto`."},
            "input": {"oneOf": [STRING, {"type": "array", "items": {"type": "object", "additionalProperties": True}}]},
            "instructions": STRING,
            "max_output_tokens": {"type": "integer", "minimum": 1},
            "stream": BOOLEAN,
            "tools": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
            "tool_choice": {},
            "text": {"type": "object", "additionalProperties": True},
            "reasoning": {"type": "object", "additionalProperties": True},
            "temperature": NUMBER,
            "top_p": NUMBER,
        },
        required=["model", "input"],
        description="OpenAI's request, without what would have to be kept: `store`, `previous_response_id`, `conversation`, "
        "`background`, `prompt`. Functions are the only tools.",
        more=True,
    )
}
RESPONSES_EXAMPLE = OpenApiExample(
    "A first response", value={"model": "auto", "input": "Bonjour !", "max_output_tokens": 200}, request_only=True
)
RESPONSES_ANSWER = _object(
    {
        "id": STRING,
        "object": {"type": "string", "enum": ["response"]},
        "created_at": INTEGER,
        "status": {"type": "string", "enum": ["completed", "incomplete"]},
        "model": STRING,
        "output": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        "usage": _object({"input_tokens": INTEGER, "output_tokens": INTEGER, "total_tokens": INTEGER}, more=True),
    },
    more=True,
)

OWN_CHAT_REQUEST: JSON = {
    "application/json": _object(
        {
            "messages": {"type": "array", "items": MESSAGE},
            "prompt": {"type": "string", "description": "Instead of `messages`: one user message."},
            "model": {"type": "string", "description": "A wish; unknown ones are ignored."},
            "max_tokens": {"type": "integer", "minimum": 1},
        },
        more=True,
    )
}
PINNED_CHAT_REQUEST: JSON = {
    "application/json": _object(
        {
            "provider": {"type": "string", "description": "Who shall serve the model, and nobody else."},
            "model": {"type": "string", "description": "A name from `/v1/models`; `auto` unless given."},
            "messages": {"type": "array", "items": MESSAGE},
            "prompt": {"type": "string", "description": "Instead of `messages`: one user message."},
            "max_tokens": {"type": "integer", "minimum": 1},
            "stream": BOOLEAN,
        },
        more=True,
    )
}
_ROUTE_PAYLOAD: JSON = _object(
    {
        "messages": {"type": "array", "items": MESSAGE},
        "prompt": {"type": "string", "description": "Instead of `messages`: one user message."},
        "model": {"type": "string", "description": "A wish; unknown ones are ignored."},
        "max_tokens": {"type": "integer", "minimum": 1},
        "cost_units": NUMBER | {"description": "The most credits the call may cost."},
    },
    more=True,
)
ROUTE_REQUEST: JSON = {
    "application/json": _object(
        {
            "payload": {"oneOf": [_ROUTE_PAYLOAD, STRING], "description": "What is asked; its fields may stand beside it too."},
            "api_key": {"type": "string", "description": "Where no header brings one."},
        },
        more=True,
    )
}
_OWN_ANSWER: JSON = _object(
    {
        "request_id": STRING,
        "response": STRING,
        "message": {"type": "object", "additionalProperties": True},
        "finish_reason": STRING,
        "provider": STRING,
        "model": STRING,
        "cost": NUMBER | {"description": "Provider cost in USD."},
        "credits": NUMBER | {"description": "Credits charged."},
        "fallback": BOOLEAN,
        "budget_fallback": BOOLEAN,
        "attempts": INTEGER | {"description": "Providers asked."},
        "usage": USAGE,
    }
)
OWN_CHAT_ANSWER = _OWN_ANSWER
ROUTE_ANSWER: JSON = {
    **_OWN_ANSWER,
    "properties": {**_OWN_ANSWER["properties"], "cost_units": NUMBER | {"description": "Credits charged."}},
}
MODEL = _object(
    {
        "id": STRING,
        "object": STRING,
        "created": INTEGER,
        "owned_by": STRING,
        "mode": {"type": "string", "enum": ["chat", "embedding", "image", "tts", "stt", "music"]},
    }
)
MODEL_LIST = _object({"object": STRING, "data": {"type": "array", "items": MODEL}})
OWN_MODEL_LIST = _object(
    {
        "default": STRING,
        "models": {
            "type": "array",
            "items": _object(
                {
                    "model": STRING,
                    "providers": {"type": "array", "items": STRING},
                    "owned_by": STRING,
                    "context_window": INTEGER | {"nullable": True},
                    "credits_per_million_input_tokens": NUMBER | {"nullable": True},
                    "credits_per_million_output_tokens": NUMBER | {"nullable": True},
                }
            ),
        },
    }
)
LIMIT = _object(
    {
        "name": STRING,
        "limit": NUMBER,
        "used": NUMBER,
        "remaining": NUMBER,
        "resets_at": {"type": "string", "format": "date-time"},
    }
)
BALANCE = _object(
    {
        "object": {"type": "string", "enum": ["balance"]},
        "plan": STRING,
        "balance": NUMBER | {"description": "Credits, held ones included."},
        "held": NUMBER,
        "available": NUMBER,
        "debt": NUMBER,
        "limits": {"type": "array", "items": LIMIT},
    }
)
USAGE_TODAY = _object(
    {
        "date": {"type": "string", "format": "date"},
        "time_zone": STRING,
        "plan": STRING,
        "requests": INTEGER,
        "input_tokens": INTEGER,
        "output_tokens": INTEGER,
        "credits": NUMBER,
        "by_model": {
            "type": "array",
            "items": _object(
                {"model": STRING, "requests": INTEGER, "input_tokens": INTEGER, "output_tokens": INTEGER, "credits": NUMBER}
            ),
        },
        "limits": {"type": "array", "items": LIMIT},
    }
)
