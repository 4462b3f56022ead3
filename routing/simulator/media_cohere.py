"""Cohere's embeddings: `/{provider}/v2/embed`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from routing.simulator.answers import unique_id
from routing.simulator.cohere import COHERE
from routing.simulator.controls import Behaviour, Simulated
from routing.simulator.delivery import send_json
from routing.simulator.media import DIMENSIONS, counted_tokens, respond, vector_of
from routing.simulator.replies import bad_request


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    texts: Annotated[list[str], msgspec.Meta(min_length=1, max_length=96)]
    input_type: Literal["search_document", "search_query", "classification", "clustering"]
    embedding_types: list[Literal["float"]]
    output_dimension: Literal[256, 512, 1024, 1536] | None = None


def find_handler(method: str, path: str) -> Any:
    """The handler of a path below the provider, None if it is not of this dialect."""
    return embed if method == "POST" and path == "v2/embed" else None


async def embed(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call for embeddings."""
    try:
        call = msgspec.json.decode(await request.read(), type=_Request)
    except msgspec.DecodeError as error:
        return bad_request(request, simulated, COHERE, f"invalid request: {error}")

    def make(behaviour: Behaviour) -> web.Response:
        vectors = [vector_of(text, call.output_dimension or DIMENSIONS) for text in call.texts]
        body: dict[str, Any] = {"id": unique_id(), "embeddings": {"float": vectors}, "texts": call.texts}
        if not behaviour.omit_usage:
            body["meta"] = {"billed_units": {"input_tokens": counted_tokens(behaviour, *call.texts)}}
        return send_json(body)

    return await respond(request, simulated, model=call.model, question=call.texts[0], error=COHERE.error, make=make)
