"""A list of the console as a file: what its filters leave, as CSV of any length or as a spreadsheet."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.http import FileResponse, Http404, HttpRequest, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _
from openpyxl import Workbook

from billing.events.services import event_record
from iafactory.common import clock
from iafactory.common.admin import list_url
from iafactory.common.crypto import EncryptedTextField
from iafactory.common.csv_tables import csv_cell, csv_chunk, csv_response
from iafactory.common.formats import number_text

# Rows of a spreadsheet: it is written whole before it is sent.
XLSX_MOST_ROWS = 100_000
_CHUNK_ROWS = 2_000
_XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
# What stays here: secrets and their hashes, answers to customers, raw messages of others.
_NEVER = frozenset(
    {
        "password",
        "key_hash",
        "code_hash",
        "secret",
        "previous_secret",
        "content",
        "body",
        "headers",
        "form_fields",
        "checkout_url",
    }
)


def table_view(request: HttpRequest, app_label: str, model_name: str, file_format: str) -> HttpResponseBase:
    """The list under its filters, search and order, for who may see it; on record as an event."""
    # Registers with the site, which imports this module while it is made.
    from billing.events.admin import operator_actor

    model_admin = next(
        (one for model, one in admin.site._registry.items() if model._meta.label_lower == f"{app_label}.{model_name}"), None
    )
    if model_admin is None or file_format not in ("csv", "xlsx"):
        raise Http404
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    changelist = model_admin.get_changelist_instance(request)
    rows = changelist.get_queryset(request)
    name = f"{model_name}-{clock.now():%Y-%m-%d-%H%M}"
    answer: HttpResponseBase | None = (
        table_csv(request, rows, file_name=name) if file_format == "csv" else table_xlsx(rows, file_name=name)
    )
    if answer is None:
        told = _("More than %s rows: narrow the list, or take it as CSV.") % number_text(XLSX_MOST_ROWS)
        messages.error(request, told)
        return HttpResponseRedirect(f"{list_url(model_admin.opts.label_lower)}?{request.GET.urlencode()}")
    event_record(
        kind="table.exported",
        object_type=model_name,
        object_id="",
        actor=operator_actor(request),
        after={"format": file_format, "query": request.GET.urlencode()[:500]},
    )
    return answer


def table_columns(model: type[models.Model]) -> list[str]:
    """The columns of a model's file: its own fields but those that are secret or no text."""
    return [
        field.attname
        for field in model._meta.concrete_fields
        if field.name not in _NEVER and not isinstance(field, EncryptedTextField | models.BinaryField)
    ]


def table_csv(request: HttpRequest, rows: models.QuerySet[Any], *, file_name: str) -> StreamingHttpResponse:
    """Sent while it is read, at constant memory."""
    columns = table_columns(rows.model)

    def chunks() -> Iterator[bytes]:
        yield csv_chunk([columns])
        values = _values(rows, columns)
        while part := list(islice(values, _CHUNK_ROWS)):
            yield csv_chunk([_text(value) for value in row] for row in part)

    return csv_response(request, chunks(), file_name=f"{file_name}.csv")


def table_xlsx(rows: models.QuerySet[Any], *, file_name: str) -> FileResponse | None:
    """A spreadsheet, None for more than `XLSX_MOST_ROWS`. Decimals stay numbers, instants are UTC."""
    columns = table_columns(rows.model)
    book = Workbook(write_only=True)
    sheet = book.create_sheet(rows.model._meta.model_name)
    sheet.append(columns)
    for number, row in enumerate(_values(rows, columns)):
        if number == XLSX_MOST_ROWS:
            return None
        sheet.append([_cell(value) for value in row])
    # Closed with the response.
    file: IO[bytes] = TemporaryFile()  # noqa: SIM115
    book.save(file)
    file.seek(0)
    return FileResponse(file, as_attachment=True, filename=f"{file_name}.xlsx", content_type=_XLSX)


def _values(rows: models.QuerySet[Any], columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return rows.prefetch_related(None).values_list(*columns).iterator(chunk_size=_CHUNK_ROWS)


def _text(value: Any) -> Any:
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, cls=DjangoJSONEncoder)
    return value.isoformat() if isinstance(value, datetime) else value


def _cell(value: Any) -> Any:
    match value:
        case None | bool() | int() | Decimal():
            return value
        case datetime():
            return value.astimezone(UTC).replace(tzinfo=None)
        case UUID():
            return str(value)
        case _:
            return csv_cell(_text(value))
