"""Cohere's v2 embeddings. Billed are the units it reports; what is embedded counts as documents to be searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routing.providers.base import Target, Usage
from routing.providers.cohere import usage_from_cohere
from routing.providers.exchange import internal_failure
from routing.providers.media_base import MediaAnswer, Mode, embedding_list, estimated_tokens, texts_of
from routing.providers.media_exchange import bearer, exchange, json_object, not_an_answer
from routing.providers.registry import register_media
from routing.providers.session import ProviderSession

MOST_TEXTS = 96


class CohereEmbeddings:
    """See `MediaAdapter`. Endpoint: `{base_url}/embed`.

    Beside OpenAI's fields a client may send Cohere's `input_type` (`search_query`, ...).
    """

    protocol = "cohere"
    mode = Mode.EMBEDDING
    takes: frozenset[str] | None = frozenset({"model", "input", "dimensions", "encoding_format", "input_type"})

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """Token ids, and more texts than it takes at once; see `MediaAdapter.inexpressible`."""
        texts = texts_of(request)
        return ["input"] if texts is None or len(texts) > MOST_TEXTS else []

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`."""
        texts = texts_of(request) or []
        body: dict[str, Any] = {
            "model": target.upstream_model,
            "texts": texts,
            "input_type": request.get("input_type") or "search_document",
            "embedding_types": ["float"],
        }
        if request.get("dimensions") is not None:
            body["output_dimension"] = request["dimensions"]
        received = await exchange(session, target, target.base_url.rstrip("/") + "/embed", bearer(target), body=body)
        answer = json_object(received, target)
        found = answer.get("embeddings")
        vectors = found.get("float") if isinstance(found, dict) else None
        if not isinstance(vectors, list) or len(vectors) != len(texts):
            raise not_an_answer(received, target)
        meta = answer.get("meta")
        reported = usage_from_cohere(meta) if isinstance(meta, dict) else None
        usage = Usage(input_total=reported.input_total if reported is not None else estimated_tokens(texts))
        try:
            made = embedding_list(target, request, vectors, usage.input_total)
        except ValueError as error:
            raise internal_failure("bad_answer", str(error)) from None
        upstream_id = answer.get("id") if isinstance(answer.get("id"), str) else None
        return MediaAnswer(usage, body=made, upstream_id=upstream_id, estimated=reported is None)


register_media(CohereEmbeddings())
