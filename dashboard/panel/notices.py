"""What an account is told by mail, and from when on."""

from collections.abc import Iterator
from typing import Any

from django import forms
from django.http import HttpResponseBase
from django.shortcuts import render
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods

from iafactory.common.errors import ApiError

from .forms import ApiForm
from .refusals import refusal_text
from .session import done, panel_page

# What each kind of notice is about, and what its threshold means.
KINDS: dict[str, tuple[Any, Any]] = {
    "credits": (_("Credits run low, or out"), _("From when on they count as low is set under Warnings in the settings.")),
    "key_budget": (
        _("A key's own credits run low, or out"),
        _("At four fifths of its limit of the day or month, and at its end."),
    ),
    "quota": (_("The plan's day is nearly used up"), _("Told again when nothing is left.")),
    "plan_ending": (_("A trial or a plan ends"), _("So that you can renew it in time.")),
    "credits_expiring": (_("Credits expire"), _("Credits that were bought or given and are not used yet.")),
    "price_change": (_("The plan renews at another price"), _("Before the first period at the new price begins.")),
}
UNITS: dict[str, Any] = {"percent": _("From this share on, in percent"), "days": _("This many days before")}


class NoticesForm(ApiForm):
    """A switch for each kind of notice, and its threshold where it has one."""

    def __init__(self, *args: Any, wishes: list[dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wishes = [wish for wish in wishes if wish["kind"] in KINDS]
        for wish in self.wishes:
            kind = wish["kind"]
            self.fields[f"{kind}_mail"] = forms.BooleanField(label=_("By mail"), required=False, initial=wish["mail"])
            if wish["unit"]:
                self.fields[f"{kind}_threshold"] = forms.IntegerField(
                    label=UNITS[wish["unit"]], min_value=1, initial=wish["threshold"]
                )

    def rows(self) -> Iterator[dict[str, Any]]:
        """The kinds with their words and fields, as the page shows them."""
        for wish in self.wishes:
            title, hint = KINDS[wish["kind"]]
            name = f"{wish['kind']}_threshold"
            yield {
                "title": title,
                "hint": hint,
                "mail": self[f"{wish['kind']}_mail"],
                "threshold": self[name] if name in self.fields else None,
            }

    def changes(self) -> Iterator[dict[str, Any]]:
        """What differs from what stands, as the API takes it."""
        for wish in self.wishes:
            kind = wish["kind"]
            wanted = {"mail": self.cleaned_data[f"{kind}_mail"], "threshold": self.cleaned_data.get(f"{kind}_threshold")}
            changed = {name: value for name, value in wanted.items() if value is not None and value != wish[name]}
            if changed:
                yield {"kind": kind, **changed}


@require_http_methods(["GET", "HEAD", "POST"])
@panel_page
def notices(request: Any) -> HttpResponseBase:
    """The kinds of notices with their switches; a POST saves those that changed."""
    wishes = request.panel.api.get("billing-notice-preferences")
    form = NoticesForm(request.POST if request.method == "POST" else None, wishes=wishes)
    if request.method == "POST" and form.is_valid() and _save(request, form):
        return done(request, _t("Saved."), "panel:notices")
    return render(request, "panel/notices.html", {"form": form}, status=400 if request.method == "POST" else 200)


def _save(request: Any, form: NoticesForm) -> bool:
    for change in form.changes():
        try:
            request.panel.api.patch("billing-notice-preferences", data=change)
        except ApiError as error:
            name = f"{change['kind']}_threshold"
            form.add_error(name if error.param == "threshold" and name in form.fields else None, refusal_text(error))
    return form.is_valid()
