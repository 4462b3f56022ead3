"""The page of what no customer pays: losses and unknown costs, each with the call behind it."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _

from iafactory.common import clock
from iafactory.common.admin import BoundedPaginator

from .selectors import LOSS_KINDS, loss_lines, loss_totals, losses_default_range, losses_in

DAY = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")


class LossForm(forms.Form):
    """Which losses: UTC days, both included, and kind."""

    since = forms.DateField(label=_("From"), required=False, widget=DAY)
    until = forms.DateField(label=_("To"), required=False, widget=DAY)
    kind = forms.ChoiceField(
        label=_("Kind"), required=False, choices=[("", _("All")), *((kind.value, kind.label) for kind in LOSS_KINDS)]
    )
    unit = forms.ChoiceField(
        label=_("Unit"), required=False, choices=[("", _("All")), ("USD", "USD"), ("credit", _("credits"))]
    )

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        first, last = losses_default_range(now=clock.now())
        wanted["since"] = wanted.get("since") or min(first, wanted.get("until") or first)
        wanted["until"] = wanted.get("until") or max(last, wanted["since"])
        if wanted["since"] > wanted["until"]:
            raise forms.ValidationError(_("The first day must not lie after the last."))
        return wanted


def losses_page(request: HttpRequest) -> TemplateResponse:
    """Losses of a range of days, newest first, with totals. For who may see the entries of the books."""
    if not request.user.has_perm("billing.view_ledgerentry"):
        raise PermissionDenied
    first, last = losses_default_range(now=clock.now())
    given = request.GET.dict()
    form = LossForm({"since": first, "until": last} | given)
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": _("Borne by us"),
        "form": form,
    }
    if form.is_valid():
        wanted = form.cleaned_data
        entries = losses_in(**wanted)
        page = BoundedPaginator(entries, 50).get_page(given.pop("page", 1))
        context |= {
            "page": page,
            "lines": loss_lines(page.object_list),
            "totals": loss_totals(entries),
            "bound": BoundedPaginator.BOUND,
            "given": given,
        }
    return TemplateResponse(request, "admin/losses.html", context)
