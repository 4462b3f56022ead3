"""Reading JSON bodies so that nothing a client sends can break what follows."""

from collections.abc import Mapping
from typing import IO, Any

import msgspec
from django.conf import settings
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from iafactory.common.errors import ApiError
from iafactory.common.rendering import decode_json
from iafactory.common.texts import Text


class StrictJSONParser(BaseParser):
    """JSON in UTF-8, as the RFC has it: no NaN, no lone surrogates, no endless nesting.

    Raises ParseError (400 `invalid_json`), or ApiError 413 above `MAX_BODY_BYTES`.
    """

    media_type = "application/json"

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        body = stream.read(settings.MAX_BODY_BYTES + 1)
        if len(body) > settings.MAX_BODY_BYTES:
            raise ApiError(
                413,
                "body_too_large",
                Text(
                    "The body is larger than %(limit)s byte.",
                    "The body is larger than %(limit)s bytes.",
                    limit=settings.MAX_BODY_BYTES,
                ),
            )
        try:
            return decode_json(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ParseError from error
