"""Tables as CSV: cells that no spreadsheet takes for formulas, sent while they are read."""

import csv
from collections.abc import AsyncIterator, Iterable, Iterator
from decimal import Decimal
from io import StringIO
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

# A cell that begins with one of these is a formula to a spreadsheet.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_cell(value: Any) -> str:
    """`value` as a cell that no spreadsheet takes for a formula."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case Decimal():
            return format(value, "f")
        case dict():
            return ", ".join(f"{count:f} {unit}" for unit, count in value.items())
        case str() if value.startswith(_FORMULA_STARTS):
            return f"'{value}"
        case _:
            return str(value)


def csv_chunk(rows: Iterable[Iterable[Any]]) -> bytes:
    """`rows` as lines of a table."""
    buffer = StringIO()
    csv.writer(buffer).writerows([csv_cell(value) for value in row] for row in rows)
    return buffer.getvalue().encode()


def csv_response(request: HttpRequest, chunks: Iterator[bytes], *, file_name: str) -> StreamingHttpResponse:
    """An attachment that is sent chunk by chunk."""
    # Under ASGI Django would first collect a plain iterator whole.
    content = _from_thread(chunks) if isinstance(request, ASGIRequest) else chunks
    return StreamingHttpResponse(
        content,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{file_name}"'},
    )


async def _from_thread(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    @sync_to_async
    def following() -> bytes | None:
        return next(chunks, None)

    while (chunk := await following()) is not None:
        yield chunk
