"""What every page of the operator's console is made of: read-only and write-once classes, links, filters, bounded counting."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from babel.numbers import get_decimal_symbol, get_group_symbol
from django import forms
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.core.paginator import Paginator
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import get_language_bidi
from django.utils.translation import gettext_lazy as _

from .formats import locale, number_text
from .ids import uuid_or_none
from .money import plain

EMPTY = "–"


def decimal_text(value: Decimal | None) -> str:
    """An amount for reading: every significant digit, no trailing zeros, thousands apart."""
    if value is None:
        return EMPTY
    text = f"{value:,f}"
    return localised(text.rstrip("0").rstrip(".") if "." in text else text)


def localised(text: str) -> str:
    """A number written the English way (1,234.5), as the operator's language writes it."""
    return text.translate(_separators(locale()))


def arrow() -> str:
    """What stands between before and after: it points to where the operator's language runs."""
    return "←" if get_language_bidi() else "→"


def in_order(text: object) -> str:
    """A date, a code or a sum inside a sentence: keeps its own order where the sentence runs from right to left."""
    return f"\u2066{text}\u2069" if text and get_language_bidi() else str(text)


@lru_cache
def _separators(name: str) -> dict[int, str]:
    return str.maketrans({",": get_group_symbol(name), ".": get_decimal_symbol(name)})


def decimal_column(field: str, description: Any = None, unit: str = "") -> Callable[[Any, Any], Any]:
    """A column for the decimal `field`, sortable, written by `decimal_text`."""

    @admin.display(ordering=field, description=description or _(field.replace("_", " ")))
    def column(model_admin: Any, row: Any) -> SafeString:
        value = getattr(row, field)
        if value is None:
            return SafeString(EMPTY)
        return format_html('<span class="figure">{}</span>', f"{decimal_text(value)} {unit}".strip())

    return column


def moment_column(field: str, description: Any = None) -> Callable[[Any, Any], Any]:
    """A column for the instant `field`, to the second, UTC: for rows that come many a minute."""

    @admin.display(ordering=field, description=description or _(field.replace("_", " ")))
    def column(model_admin: Any, row: Any) -> SafeString:
        value = getattr(row, field)
        return SafeString(EMPTY) if value is None else format_html('<span class="moment">{}</span>', moment_text(value))

    return column


def moment_text(value: datetime) -> str:
    """An instant to the second, UTC."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def change_url(model: str, pk: Any) -> str:
    """Address of an object's page; `model` is `app.model`."""
    return reverse(f"admin:{model.replace('.', '_')}_change", args=[quote(pk)])


def change_link(model: str, pk: Any, text: Any = None) -> SafeString:
    """A link to an object's page, a dash without a key."""
    if pk is None or pk == "":
        return SafeString(EMPTY)
    return format_html('<a href="{}">{}</a>', change_url(model, pk), pk if text is None else text)


def viewer_may(row: Any, permission: str) -> bool:
    """Whether the operator for whom `row` was loaded has the right: buttons that they could not use are left out."""
    viewer = getattr(row, "console_viewer", None)
    return viewer is None or bool(viewer.has_perm(permission))


def list_url(model: str, /, **lookups: Any) -> str:
    """Address of a list; `lookups` are its query parameters."""
    address = reverse(f"admin:{model.replace('.', '_')}_changelist")
    return f"{address}?{urlencode(lookups)}" if lookups else address


def list_link(model: str, text: Any, /, **lookups: Any) -> SafeString:
    """A link to a filtered list."""
    return format_html('<a href="{}">{}</a>', list_url(model, **lookups), text)


def object_url(object_type: str, object_id: str) -> str | None:
    """Address of what an event tells about (`api_key`, id), None where the console has no page for it."""
    name = object_type.replace("_", "")
    if not object_id:
        return None
    for model in admin.site._registry:
        if model._meta.model_name == name:
            try:
                return change_url(model._meta.label_lower, object_id)
            except NoReverseMatch:
                return None
    return None


def link_column(field: str, model: str, description: Any = None) -> Callable[[Any, Any], Any]:
    """A column that links the foreign key `field` to its page; the related row must be selected with the list."""

    @admin.display(ordering=field, description=description or _(field.replace("_", " ")))
    def column(model_admin: Any, row: Any) -> SafeString:
        related = getattr(row, field)
        return SafeString(EMPTY) if related is None else change_link(model, related.pk, Truncator(related).chars(28))

    return column


def json_block(value: Any) -> SafeString:
    """JSON, indented."""
    if not value:
        return SafeString(EMPTY)
    text = json.dumps(value, indent=2, ensure_ascii=False, cls=DjangoJSONEncoder)
    return format_html('<pre class="json">{}</pre>', text)


def table(headings: Sequence[Any], rows: Sequence[Sequence[Any]], *, caption: Any = "") -> SafeString:
    """A small table of escaped cells; a `Decimal` is set as a figure."""

    def cell(value: Any) -> SafeString:
        if isinstance(value, Decimal):
            return format_html('<td class="figure">{}</td>', decimal_text(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return format_html('<td class="figure">{}</td>', number_text(value))
        return format_html("<td>{}</td>", value)

    head = format_html_join("", "<th>{}</th>", ((heading,) for heading in headings))
    body = format_html_join("", "<tr>{}</tr>", ((SafeString("".join(cell(value) for value in row)),) for row in rows))
    title = format_html("<caption>{}</caption>", caption) if caption else ""
    return format_html('<table class="explained">{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table>', title, head, body)


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts at most `BOUND` rows, so that opening a list of a large table never reads all of it.

    What lies beyond is reached by filters and search.
    """

    BOUND = 10_000

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        if isinstance(rows, models.QuerySet):
            return rows.order_by()[: self.BOUND].count()
        return len(rows)


class TextFilter(admin.SimpleListFilter):
    """A filter with an input: for columns whose distinct values are too many, or too costly to look up."""

    template = "admin/text_filter.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("", "")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        value = (self.value() or "").strip()
        return queryset.filter(**{str(self.parameter_name): value}) if value else queryset

    def choices(self, changelist: Any) -> Any:
        others = [
            (name, value)
            for name, values in changelist.filter_params.items()
            if name != self.parameter_name
            for value in values
        ]
        yield {"selected": False, "others": others, "clear": changelist.get_query_string(remove=[self.parameter_name])}


def text_filter(field: str, label: Any) -> type[TextFilter]:
    """A `TextFilter` that compares `field` exactly."""
    return type("FieldTextFilter", (TextFilter,), {"title": label, "parameter_name": field})


def first_words(label: Any) -> str:
    """Of a choice's words those before the colon, which explains them: lists have no place for more."""
    return str(label).partition(":")[0].strip()


class ValuesFilter(admin.AllValuesFieldListFilter):
    """Offers each value that rows have, for text that may be empty: a choice without a name could not be pressed."""

    def choices(self, changelist: Any) -> Any:
        for choice in super().choices(changelist):
            yield choice | {"display": choice["display"] or _("Empty")}


def presence_filter(field: str, label: Any, *, given: Any, empty: Any) -> type[admin.SimpleListFilter]:
    """A filter on whether the nullable `field` is given, in words of the domain."""

    class PresenceFilter(admin.SimpleListFilter):
        title = label
        parameter_name = f"{field}_given"

        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
            return [("0", empty), ("1", given)]

        def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
            if self.value() not in ("0", "1"):
                return queryset
            return queryset.filter(**{f"{field}__isnull": self.value() == "0"})

    return PresenceFilter


class LinkedFilter(admin.SimpleListFilter):
    """Shows, and lets go of, the one object to which a link from another page narrowed the list."""

    related: type[models.Model]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, value)] if (value := self.used_parameters.get(str(self.parameter_name))) else []

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        key = self.related._meta.pk
        try:
            return queryset.filter(**{str(self.parameter_name): key.to_python(value)})
        except forms.ValidationError:
            return queryset.none()

    def choices(self, changelist: Any) -> Any:
        yield {
            "selected": False,
            "query_string": changelist.get_query_string(remove=[self.parameter_name]),
            "display": _("All"),
        }
        try:
            found = self.related._default_manager.filter(pk=self.value()).first()
        except (ValueError, forms.ValidationError):
            found = None
        yield {
            "selected": True,
            "query_string": changelist.get_query_string(),
            "display": str(found) if found is not None else str(self.value()),
        }


def linked_filter(field: str, related: type[models.Model], label: Any) -> type[LinkedFilter]:
    """A `LinkedFilter` on the foreign key `field`, under the parameter that `list_link` uses: `<field>__id__exact`."""
    return type(
        "FieldLinkedFilter",
        (LinkedFilter,),
        {"title": label, "parameter_name": f"{field}__{related._meta.pk.name}__exact", "related": related},
    )


class PlainNumberInput(forms.NumberInput):
    """A decimal without the zeros that its column adds: 3, not 3.000000."""

    def format_value(self, value: Any) -> Any:
        return f"{plain(value):f}" if isinstance(value, Decimal) else super().format_value(value)


class ConsoleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Every list of the console: bounded counting, no second count, uuid-safe search.

    `search_uuid_fields` are compared with a search that is a UUID; with other text only `search_fields` count.
    """

    paginator = BoundedPaginator
    formfield_overrides = {models.DecimalField: {"widget": PlainNumberInput}}
    show_full_result_count = False
    # Facets count every filter's choices over the whole table.
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    save_on_top = False
    search_uuid_fields: Sequence[str] = ()

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        # Django compares only the relations of a lookup with the filters' parameters, not the parameter itself.
        filters = (item for item in self.get_list_filter(request) if isinstance(item, type))
        return any(getattr(item, "parameter_name", None) == lookup for item in filters) or super().lookup_allowed(
            lookup, value, request
        )

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            # Read-only fields, which show buttons, know only the row.
            row.console_viewer = request.user
        return row

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        identifier = uuid_or_none(search_term) if self.search_uuid_fields else None
        if identifier is None:
            return super().get_search_results(request, queryset, search_term)
        wanted = models.Q()
        for field in self.search_uuid_fields:
            wanted |= models.Q(**{field: identifier})
        return queryset.filter(wanted), False

    def render_step(
        self,
        request: HttpRequest,
        *,
        template: str = "admin/step.html",
        title: Any,
        subtitle: Any = None,
        form: forms.Form | None = None,
        submit: Any = "",
        status: int = 200,
        **context: Any,
    ) -> TemplateResponse:
        """A page between a button and its deed: what will happen, a form, one submit button."""
        return TemplateResponse(
            request,
            template,
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": title,
                "subtitle": subtitle,
                "form": form,
                "submit": submit,
                "media": self.media + (form.media if form else forms.Media()),
                **context,
            },
            status=status,
        )


class WriteOnceAdmin(ConsoleAdmin):
    """Rows that are added and then stand: the database refuses to change or delete them."""

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        name = self.opts.model_name
        return any(request.user.has_perm(f"{self.opts.app_label}.{verb}_{name}") for verb in ("view", "add", "change"))


class ReadOnlyAdmin(WriteOnceAdmin):
    """Rows that only the product writes: nothing here is added, changed or deleted by hand."""

    actions: Any = None

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyInline(admin.TabularInline):  # type: ignore[type-arg]
    """Rows shown on their parent's page."""

    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def protected_by_history(row: models.Model) -> bool:
    """Whether rows that must stay (`PROTECT`) point to `row`."""
    for relation in row._meta.related_objects:
        if (
            getattr(relation, "on_delete", None) is models.PROTECT
            and relation.related_model._default_manager.filter(**{relation.field.name: row}).exists()
        ):
            return True
    return False


class ReasonForm(forms.Form):
    """Why an operator does something; it goes into the event."""

    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
        help_text=_("Kept with the event; the customer does not see it."),
    )
