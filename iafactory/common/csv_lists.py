"""Long lists of the console as tables: filtered as the list is, sent while they are read, at constant memory."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from django.urls import URLPattern, path

from .csv_tables import csv_chunk, csv_response

ROWS_AT_ONCE = 2000


def keyset_chunks(rows: QuerySet[Any], *, fields: Sequence[str], newest_by: Sequence[str]) -> Iterator[bytes]:
    """The table of `fields`, newest first: each piece of rows is a query of its own that begins after the last one's end.

    So memory stays the same however many rows there are, and no connection is kept busy between pieces. `newest_by` is one
    field that is unique, or an instant and the field that decides among rows of one instant.
    """
    rows = rows.order_by(*(F(name).desc() for name in newest_by)).values_list(*newest_by, *fields)
    head: list[Sequence[str]] = [fields]
    last: Sequence[Any] | None = None
    while True:
        piece = list((rows if last is None else rows.filter(_after(newest_by, last)))[:ROWS_AT_ONCE])
        yield csv_chunk([*head, *(row[len(newest_by) :] for row in piece)])
        if len(piece) < ROWS_AT_ONCE:
            return
        head, last = [], piece[-1][: len(newest_by)]


def _after(newest_by: Sequence[str], last: Sequence[Any]) -> Q:
    """Rows that come after `last`. The plain bound on the first field is what an index can use."""
    if len(newest_by) == 1:
        return Q(**{f"{newest_by[0]}__lt": last[0]})
    first, second = newest_by
    later = Q(**{f"{first}__lt": last[0]}) | Q(**{first: last[0], f"{second}__lt": last[1]})
    return Q(**{f"{first}__lte": last[0]}) & later


class CsvListMixin:
    """A list of the console with a button that sends it as CSV: every row that its filters and search leave.

    `csv_fields` are the columns; `csv_newest_by` as `keyset_chunks` takes it.
    """

    csv_fields: Sequence[str]
    csv_newest_by: Sequence[str] = ("pk",)
    change_list_template: Any = "admin/csv_list.html"
    opts: Any

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_csv"
        view = self.admin_site.admin_view(self.csv_view)  # type: ignore[attr-defined]
        return [path("csv/", view, name=name), *super().get_urls()]  # type: ignore[misc]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        named = {"csv_url": f"admin:{self.opts.app_label}_{self.opts.model_name}_csv"}
        return super().changelist_view(request, {**named, **(extra_context or {})})  # type: ignore[misc]

    def csv_view(self, request: HttpRequest) -> StreamingHttpResponse:
        """The list as it is filtered."""
        if not self.has_view_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        found = self.get_changelist_instance(request).get_queryset(request)  # type: ignore[attr-defined]
        rows = found.select_related(None)
        chunks = keyset_chunks(rows, fields=self.csv_fields, newest_by=self.csv_newest_by)
        return csv_response(request, chunks, file_name=f"{self.opts.model_name}.csv")
