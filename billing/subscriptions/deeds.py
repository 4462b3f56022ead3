"""What operators do to one row of the console: a button, a page that asks why, one service call."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.admin import operator_actor
from billing.events.services import form_first_use
from iafactory.common.admin import EMPTY, ConsoleAdmin, ReasonForm, change_url, viewer_may
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid7, uuid_or_none


@dataclass(frozen=True, slots=True)
class Deed:
    """A button: its words, its form, when it makes sense, and the service it calls as `act(row, actor=…, **form)`."""

    label: Any
    explanation: Any
    done: Any
    act: Callable[..., Any]
    permission: str
    when: Callable[[Any], bool]
    form: type[ReasonForm] = ReasonForm
    dangerous: bool = False
    asks_others: bool = False
    """Its service asks somebody over the network, and opens its own transactions."""
    preview: Callable[..., list[tuple[Any, Any]]] | None = None
    """What will happen, called as `preview(row, **form)`: shown before the deed is done, and confirmed."""


class DeedsMixin(ConsoleAdmin):
    """Adds the buttons of `deeds` as the read-only field `deed_buttons`, and the pages behind them."""

    deeds: dict[str, Deed] = {}

    @admin.display(description=_("what can be done"))
    def deed_buttons(self, row: Any) -> SafeString:
        possible = [(self._deed_url(row, name), deed.label) for name, deed in self.deeds.items() if self._offered(row, deed)]
        if not possible:
            return SafeString(EMPTY)
        return format_html_join(" ", '<a class="button" href="{}">{}</a>', possible)

    def _offered(self, row: Any, deed: Deed) -> bool:
        return viewer_may(row, deed.permission) and deed.when(row)

    def _deed_url(self, row: Any, name: str) -> str:
        return reverse(f"admin:{self._deed_route()}", args=[row.pk, name])

    def _deed_route(self) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_deed"

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.deed_view)
        return [path("<uuid:object_id>/do/<slug:name>/", view, name=self._deed_route()), *super().get_urls()]

    def deed_form(self, request: HttpRequest, row: Any, deed: Deed) -> ReasonForm:
        """The form of a deed; it may know the row."""
        return deed.form(request.POST or None)

    def deed_items(self, row: Any, name: str) -> list[Any]:
        """Facts shown above the form."""
        return []

    def deed_view(self, request: HttpRequest, object_id: Any, name: str) -> HttpResponse:
        """Ask why, then do it; what the service refuses is said on the page."""
        deed = self.deeds.get(name)
        if deed is None or not request.user.has_perm(deed.permission):
            raise PermissionDenied
        row = self.get_queryset(request).filter(pk=object_id).first()
        if row is None:
            raise Http404
        back = change_url(self.opts.label_lower, row.pk)
        if request.GET.get("from") == "account":
            # Came from the account's page, and goes back there.
            back = change_url("billing.account", row.account_id)
        if not deed.when(row):
            self.message_user(request, _("This is not possible any more."), messages.WARNING)
            return HttpResponseRedirect(back)
        form = self.deed_form(request, row, deed)
        confirm: list[tuple[Any, Any]] | None = None
        if request.method == "POST" and "_edit" not in request.POST and form.is_valid():
            try:
                if deed.preview is not None and "_confirm" not in request.POST:
                    confirm = [*deed.preview(row, **form.cleaned_data), (_("Reason"), form.cleaned_data["reason"])]
                else:
                    self._do(request, row, deed, form)
                    return HttpResponseRedirect(back)
            except ApiError as error:
                form.add_error(error.param if error.param in form.fields else None, error.text)
        return self.render_step(
            request,
            title=deed.label,
            subtitle=row,
            form=form,
            submit=deed.label if deed.preview is None or confirm else _("Continue"),
            dangerous=deed.dangerous and (deed.preview is None or bool(confirm)),
            explanation=deed.explanation,
            items=self.deed_items(row, name),
            back=back,
            confirm=confirm,
            form_id=uuid_or_none(request.POST.get("form_id", "")) or uuid7(),
        )

    def _do(self, request: HttpRequest, row: Any, deed: Deed, form: ReasonForm) -> None:
        """Do it, once for each form that was shown; raises what the service refuses."""
        form_id = uuid_or_none(request.POST.get("form_id", ""))
        with nullcontext() if deed.asks_others else transaction.atomic():
            if form_id is not None and not deed.asks_others and not form_first_use(form_id):
                self.message_user(request, _("This form was acted on before; nothing more was done."), messages.WARNING)
                return
            deed.act(row, actor=operator_actor(request), **form.cleaned_data)
            self.log_change(request, row, f"{deed.done} {form.cleaned_data['reason']}")
        self.message_user(request, deed.done, messages.SUCCESS)


def state_badge(row: Any) -> SafeString:
    """A row's state as a badge."""
    return format_html('<span class="state state-{}">{}</span>', row.state, row.get_state_display())
