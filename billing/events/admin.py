"""The audit trail in the console, and the base class that writes to it."""

import json
import re
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from iafactory.common.admin import (
    EMPTY,
    ConsoleAdmin,
    ReadOnlyAdmin,
    change_link,
    json_block,
    list_link,
    moment_column,
    object_url,
    protected_by_history,
    text_filter,
)
from iafactory.common.ids import uuid_or_none

from .models import Event
from .names import kind_label, object_label
from .reasons import reason_text
from .services import Actor, event_record


def operator_actor(request: HttpRequest) -> Actor:
    """The operator who sent `request`."""
    user = request.user
    return Actor(Event.ActorKind.OPERATOR, id=user.pk, label=str(user))


def _plain(value: Any) -> Any:
    """`value` as JSON holds it, decimals and dates as text."""
    return json.loads(json.dumps(value, cls=DjangoJSONEncoder))


class AuditedModelAdmin(ConsoleAdmin):
    """Objects that operators edit: each creation, edit and deletion writes an event with what changed, in its transaction.

    An object to which history points has no delete button. `audit_hidden` names form fields whose values never leave the form.
    """

    audit_hidden: tuple[str, ...] = ()

    def event_object_type(self) -> str:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.model.__name__).lower()

    def event_account_id(self, row: Any) -> UUID | None:
        """The account whose timeline shows the edit."""
        return None

    def audit_values(self, row: models.Model, names: list[str]) -> dict[str, Any]:
        """The fields `names` of `row` as the event keeps them."""
        values: dict[str, Any] = {}
        for name in names:
            field = self.opts.get_field(name)
            if field.many_to_many:
                values[name] = sorted(str(related) for related in getattr(row, name).all()) if row.pk else []
            else:
                values[name] = _plain(field.value_from_object(row))  # type: ignore[union-attr]
        return values

    def _audited(self, form: "ModelForm[Any]") -> list[str]:
        fields = {field.name for field in (*self.opts.concrete_fields, *self.opts.many_to_many)}
        return [name for name in form.changed_data if name in fields and name not in self.audit_hidden]

    def save_model(self, request: HttpRequest, obj: Any, form: "ModelForm[Any]", change: bool) -> None:
        names = self._audited(form)
        stored = self.get_queryset(request).get(pk=obj.pk) if change else None
        before = self.audit_values(stored, names) if stored is not None else {}
        self.write(obj, form, change)
        if not form.changed_data and change:
            return
        after = self.audit_values(obj, names)
        for name in names:
            if self.opts.get_field(name).many_to_many:  # saved after this; the form knows
                after[name] = sorted(str(related) for related in form.cleaned_data[name])
        same = [name for name in before if before[name] == after[name]]
        before, after = ({name: side[name] for name in side if name not in same} for side in (before, after))
        after |= {name: "***" for name in form.changed_data if name in self.audit_hidden}
        self.event_write(request, obj, "edited" if change else "created", before=before, after=after)

    def write(self, obj: Any, form: "ModelForm[Any]", change: bool) -> None:
        """Store the form's object."""
        obj.save()

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        names = [field.name for field in self.opts.concrete_fields if field.name not in self.audit_hidden]
        self.event_write(request, obj, "deleted", before=self.audit_values(obj, names))
        super().delete_model(request, obj)

    def event_write(
        self,
        request: HttpRequest,
        row: Any,
        what: str,
        *,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> None:
        """Record that the operator did `what` to `row`."""
        object_type = self.event_object_type()
        event_record(
            kind=f"{object_type}.{what}",
            object_type=object_type,
            object_id=row.pk,
            account_id=self.event_account_id(row),
            actor=operator_actor(request),
            before=before,
            after=after,
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Without an object this asks for the bulk action, which would bypass the look at history.
        return obj is not None and super().has_delete_permission(request, obj) and not protected_by_history(obj)


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """What happened to whom, by whom and why."""

    list_display = ("moment", "what", "object_link", "account_link", "actor", "short_reason")
    list_filter = ("at", "actor_kind", text_filter("kind", _("kind")), text_filter("actor_label", _("actor")))
    search_fields = ("object_id__exact", "kind__startswith", "actor_label__iexact", "request_id__exact")
    search_help_text = _("Object, account or request id; the beginning of a kind; an actor's e-mail.")
    fieldsets = (
        (None, {"fields": ("at", "what", "kind", "object_link", "account_link", "reason")}),
        (
            _("Who"),
            {"fields": ("actor_kind", "actor_label", "actor_id", "on_behalf_of_label", "on_behalf_of_id", "request_id")},
        ),
        (_("What changed"), {"fields": ("before_block", "after_block")}),
    )
    readonly_fields = ("what", "object_link", "account_link", "before_block", "after_block")

    moment = moment_column("at", _("at, UTC"))

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        found, duplicates = super().get_search_results(request, queryset, search_term)
        identifier = uuid_or_none(search_term)
        if identifier is not None:
            found = found | queryset.filter(models.Q(account_id=identifier) | models.Q(actor_id=identifier))
        return found, duplicates

    @admin.display(description=_("what happened"), ordering="kind")
    def what(self, event: Event) -> SafeString:
        return format_html('<span title="{}">{}</span>', event.kind, kind_label(event.kind))

    @admin.display(description=_("object"))
    def object_link(self, event: Event) -> SafeString:
        address = object_url(event.object_type, event.object_id)
        label = f"{object_label(event.object_type)} {_short(event.object_id)}"
        return format_html('<a href="{}">{}</a>', address, label) if address else format_html("{}", label)

    def account_name(self, event: Event) -> str:
        """How the account is called in lists. Events lie below accounts and know only their ids."""
        return _short(str(event.account_id))

    @admin.display(description=_("account"), ordering="account_id")
    def account_link(self, event: Event) -> SafeString:
        if event.account_id is None:
            return SafeString(EMPTY)
        return format_html(
            "{} · {}",
            change_link("billing.account", event.account_id, self.account_name(event)),
            list_link("billing.event", _("timeline"), account_id__exact=event.account_id),
        )

    @admin.display(description=_("who"), ordering="actor_label")
    def actor(self, event: Event) -> str:
        is_system = event.actor_kind == Event.ActorKind.SYSTEM
        who = event.get_actor_kind_display() if is_system or not event.actor_label else event.actor_label
        if not event.on_behalf_of_label:
            return who
        return _("%(operator)s for %(customer)s") % {"operator": who, "customer": event.on_behalf_of_label}

    @admin.display(description=_("reason"))
    def short_reason(self, event: Event) -> str:
        return reason_text(event.reason)[:80]

    @admin.display(description=_("before"))
    def before_block(self, event: Event) -> SafeString:
        return json_block(event.before)

    @admin.display(description=_("after"))
    def after_block(self, event: Event) -> SafeString:
        return json_block(event.after)


def _short(identifier: str) -> str:
    """The telling end of a UUID; version 7 ids made together share their beginning."""
    return f"…{identifier[-8:]}" if len(identifier) == 36 else identifier
