"""A call for embeddings, images, speech, transcription or music: asked for and answered whole, billed by its own units."""

import base64
import logging
from typing import Any

from msgspec import structs

from iafactory.common.hot import JSON_TYPE
from iafactory.common.money import plain
from iafactory.common.rendering import encode_json

from .choice import Candidate
from .media_requests import MediaRequest
from .pipeline import Headers, ModelCall
from .providers.base import ProviderError
from .providers.media_base import MediaAnswer, Mode
from .providers.registry import media_adapter_for

logger = logging.getLogger(__name__)

EVENT_STREAM: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class MediaCall(ModelCall):
    """One call of one caller for anything but chat."""

    request: MediaRequest
    made: MediaAnswer | None = None

    async def _serve(self) -> None:
        """Ask one candidate after the other. What is being made is waited for even when the client hangs up."""
        while (candidate := await self._next_candidate()) is not None:
            adapter = media_adapter_for(candidate.route.protocol, self.request.mode)
            try:
                made = await adapter.make(self.gateway.session, self._target(candidate), self.request.body)
            except ProviderError as error:
                if not self._may_go_on(candidate, error):
                    return
                continue
            self._take(candidate, made)
            return

    def _take(self, candidate: Candidate, made: MediaAnswer) -> None:
        outcome, request = self.outcome, self.request
        price = request.price(candidate.price, made.body)
        usage, guessed = request.complete(made.usage, price, output_tokens=candidate.output_tokens)
        self.made = made
        self._begins(structs.replace(candidate, price=price))
        outcome.error = None
        outcome.usage = usage
        outcome.estimated = outcome.estimated or made.estimated or guessed
        # With a key the answer reaches whoever asks again: it is delivered.
        gone = self.exchange.gone and self.idempotency is None
        outcome.end = "client_gone" if gone else "complete"
        outcome.delivered_bytes = 0 if gone else max(1, len(made.content))

    def _last_bytes(self) -> bytes:
        made = self.made
        if made is None or self.outcome.error is not None:
            return b""
        if self.request.events:
            return self._events(made)
        return made.content if made.body is None else encode_json(made.body)

    def _events(self, made: MediaAnswer) -> bytes:
        """The answer as OpenAI's events: what would come bit by bit comes at once, after it is paid for."""
        usage = self.outcome.usage
        assert usage is not None
        tokens = {
            "input_tokens": usage.input_total,
            "output_tokens": usage.output_total,
            "total_tokens": usage.input_total + usage.output_total,
        }
        if self.request.mode == Mode.SPEECH:
            sound = base64.b64encode(made.content).decode()
            return _event({"type": "speech.audio.delta", "audio": sound}) + _event(
                {"type": "speech.audio.done", "usage": tokens}
            )
        body: dict[str, Any] = made.body or {}
        [image] = body["data"]
        completed = {
            "type": "image_generation.completed",
            "b64_json": image.get("b64_json"),
            "created_at": body["created"],
            "background": body.get("background", "auto"),
            "output_format": body.get("output_format", "png"),
            "quality": body.get("quality", "auto"),
            "size": body.get("size", "auto"),
            "usage": {**tokens, "input_tokens_details": {"text_tokens": usage.input_total, "image_tokens": 0}},
        }
        return _event(completed, named=True)

    def _headers(self, candidate: Candidate) -> Headers:
        headers = super()._headers(candidate)
        takes = media_adapter_for(candidate.route.protocol, self.request.mode).takes
        dropped = [] if takes is None else [name for name in self.request.body if name not in takes]
        if dropped:
            headers.append((b"x-iaf-dropped", ", ".join(dropped).encode()))
        return headers

    def _head(self, served: Candidate) -> Headers:
        kind = JSON_TYPE
        if self.made is not None and self.made.body is None:
            kind = (b"content-type", self.made.content_type.encode("latin-1", "replace"))
        first = EVENT_STREAM if self.request.events else [kind]
        return [*first, *self._headers(served), (b"x-iaf-credits", str(plain(self.outcome.charged)).encode())]


def _event(body: dict[str, Any], *, named: bool = False) -> bytes:
    name = f"event: {body['type']}\n".encode() if named else b""
    return name + b"data: " + encode_json(body) + b"\n\n"
