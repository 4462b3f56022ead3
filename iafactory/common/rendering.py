"""JSON that keeps money exact: `Decimal` is written as a JSON number, never through `float`."""

from typing import Any

import msgspec
from django.utils.encoding import force_str
from django.utils.functional import Promise
from rest_framework.renderers import BaseRenderer


def _plain(value: Any) -> Any:
    if isinstance(value, Promise):
        return force_str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


encoder = msgspec.json.Encoder(decimal_format="number", enc_hook=_plain)
encode_json = encoder.encode
decode_json = msgspec.json.Decoder().decode


class MoneyJSONRenderer(BaseRenderer):
    """DRF's renderer for the whole API."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        return b"" if data is None else encode_json(data)
