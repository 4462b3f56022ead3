"""Pages that follow each other: what was entered stays on the server, and only the last one writes.

Each page is a form. What it took is kept in a `ConsoleDraft` as it was sent and is read and checked anew whenever a later page,
or the end, needs it; so going back loses nothing, and what became impossible meanwhile is found.
"""

from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import User
from billing.events.admin import operator_actor
from billing.events.services import Actor
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid_or_none

from .drafts import draft_begin, draft_finish, draft_keep, draft_of
from .models import ConsoleDraft

Kept = dict[str, list[str]]


class PageForm(forms.Form):
    """A page's fields; `groups` puts them under headings, what no group names comes first."""

    groups: tuple[tuple[Any, tuple[str, ...]], ...] = ()

    @property
    def parts(self) -> list[tuple[Any, list[forms.BoundField]]]:
        """Headings and their fields."""
        named = {name for _title, names in self.groups for name in names}
        shown = {field.name: field for field in self.visible_fields()}
        rest = [field for name, field in shown.items() if name not in named]
        found: list[tuple[Any, list[forms.BoundField]]] = [("", rest)] if rest else []
        return found + [(title, [shown[name] for name in names if name in shown]) for title, names in self.groups]


class ReasonForm(PageForm):
    """Why it is written; of what can lose money also that this was seen."""

    accept_risk = forms.BooleanField(
        label=_("I have seen that this plan can lose money"),
        required=False,
        help_text=_("Kept with your name and these figures."),
    )
    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text=_("Kept with the events."),
    )

    def __init__(self, data: QueryDict | None, *, risky: bool = False) -> None:
        super().__init__(data)
        if not risky:
            del self.fields["accept_risk"]


class Page:
    """One page of a wizard."""

    name: str
    title: Any
    explanation: Any = ""
    template = "admin/wizards/page.html"
    submit: Any = _("Continue")
    # Fields that go into the draft's encrypted secret and nowhere else.
    secret_field = ""

    def form(self, wizard: "Wizard", data: QueryDict | None) -> forms.Form:
        """The page's form, bound to `data` if there is any; it may know what earlier pages took."""
        raise NotImplementedError

    def take(self, wizard: "Wizard", form: forms.Form) -> None:
        """After a valid form, before it is kept: further checks. Raises ApiError, which the page then shows."""

    def context(self, wizard: "Wizard", form: forms.Form) -> dict[str, Any]:
        """What else the template shows."""
        return {}

    def stays(self, data: QueryDict) -> bool:
        """Whether what was sent asks to look once more and not to go on."""
        return "_look" in data


class Wizard:
    """One operator's way through the pages."""

    kind: str
    title: Any
    pages: tuple[Page, ...]

    def __init__(self, request: HttpRequest, draft: ConsoleDraft | None) -> None:
        self.request = request
        self.draft = draft

    @classmethod
    def may(cls, request: HttpRequest) -> bool:
        """Whether the operator has every right that the end needs."""
        raise NotImplementedError

    def finish(self, draft: ConsoleDraft, actor: Actor, wanted: dict[str, Any]) -> str:
        """Write everything; the address of what came of it. `wanted` is what the last page took.

        Inside a transaction. Raises ApiError.
        """
        raise NotImplementedError

    def notes(self) -> dict[str, Any]:
        """What this request found out and later pages need, kept beside the pages."""
        return {}

    def done(self) -> Any:
        """What is said after the end."""
        return _("Done.")

    @property
    def actor(self) -> Actor:
        return operator_actor(self.request)

    @property
    def given(self) -> dict[str, Any]:
        """What the draft holds, by page."""
        return self.draft.data if self.draft is not None else {}

    def kept(self, page: Page) -> QueryDict | None:
        """What a page took, as it was sent."""
        values = self.given.get(page.name)
        if values is None:
            return None
        found = QueryDict(mutable=True)
        for name, items in values.items():
            found.setlist(name, items)
        return found

    def cleaned(self, name: str) -> dict[str, Any]:
        """What page `name` took, read anew. Raises ApiError 400 `invalid_request` where it is not valid any more."""
        page = next(page for page in self.pages if page.name == name)
        form = page.form(self, self.kept(page) or QueryDict())
        if not form.is_valid():
            fields = [str(form.fields[field].label or field) if field in form.fields else "" for field in form.errors]
            told = _("%(page)s: this is not possible any more: %(fields)s") % {
                "page": page.title,
                "fields": ", ".join(filter(None, fields)) or " ".join(map(str, form.non_field_errors())),
            }
            raise ApiError(400, "invalid_request", told)
        return form.cleaned_data


def wizard_urls(model_admin: Any, wizard: type[Wizard], route: str) -> list[Any]:
    """The address of a wizard below the pages of a model: `<app>_<model>_<route>`."""

    def view(request: HttpRequest) -> HttpResponse:
        return wizard_view(model_admin, wizard, request)

    opts = model_admin.opts
    name = f"{opts.app_label}_{opts.model_name}_{route.replace('-', '_')}"
    return [path(f"{route}/", model_admin.admin_site.admin_view(view), name=name)]


def wizard_view(model_admin: Any, kind: type[Wizard], request: HttpRequest) -> HttpResponse:
    """Show or take one page. `draft` and `page` of the query say which; a page is reached only through those before it."""
    if not kind.may(request):
        raise PermissionDenied
    draft_id = uuid_or_none(request.GET.get("draft", ""))
    draft = draft_of(kind=kind.kind, operator=cast(User, request.user), draft_id=draft_id)
    if draft is None and "draft" in request.GET:
        messages.warning(request, _("What was begun here is gone: it is kept for a day. Begin anew."))
        return HttpResponseRedirect(request.path)
    if draft is not None and draft.result:
        messages.info(request, _("This was done already."))
        return HttpResponseRedirect(draft.result)
    wizard = kind(request, draft)
    number = _number(wizard, request.GET.get("page", ""))
    try:
        return _page(model_admin, wizard, number)
    except ApiError as error:
        # An earlier page says something that is not possible any more: back to it.
        messages.error(request, error.text)
        return HttpResponseRedirect(_address(wizard, _first_invalid(wizard)))


def _page(model_admin: Any, wizard: Wizard, number: int) -> HttpResponse:
    request, page = wizard.request, wizard.pages[number]
    form = page.form(wizard, request.POST if request.method == "POST" else wizard.kept(page))
    if request.method == "POST":
        answer = _taken(wizard, number, form)
        if answer is not None:
            return answer
    return TemplateResponse(
        request,
        page.template,
        {
            **model_admin.admin_site.each_context(request),
            "opts": model_admin.opts,
            "title": wizard.title,
            "subtitle": page.title,
            "page": page,
            "pages": [
                {"title": one.title, "now": place == number, "address": _address(wizard, place) if place < number else ""}
                for place, one in enumerate(wizard.pages)
            ],
            "number": number + 1,
            "form": form,
            "media": model_admin.media + form.media,
            "is_last": number == len(wizard.pages) - 1,
            "before": number > 0,
            **page.context(wizard, form),
        },
        status=200,
    )


def _first_invalid(wizard: Wizard) -> int:
    for number, page in enumerate(wizard.pages):
        try:
            wizard.cleaned(page.name)
        except ApiError:
            return number
    return len(wizard.pages) - 1


def _number(wizard: Wizard, name: str) -> int:
    """The page asked for, or the first that has not taken anything yet, whichever comes first."""
    reached = next((n for n, page in enumerate(wizard.pages) if page.name not in wizard.given), len(wizard.pages) - 1)
    wanted = next((n for n, page in enumerate(wizard.pages) if page.name == name), 0 if not name else reached)
    return min(wanted, reached)


def _taken(wizard: Wizard, number: int, form: forms.Form) -> HttpResponse | None:
    """What follows a page that was sent; None shows it again."""
    page = wizard.pages[number]
    data = wizard.request.POST
    if "_back" in data and number > 0:
        # Half-filled pages are kept too: coming forward again shows them.
        if form.is_valid():
            _keep(wizard, page, form)
        return HttpResponseRedirect(_address(wizard, number - 1))
    if not form.is_valid() or page.stays(data):
        return None
    try:
        page.take(wizard, form)
        _keep(wizard, page, form)
        if number < len(wizard.pages) - 1:
            return HttpResponseRedirect(_address(wizard, number + 1))
        assert wizard.draft is not None
        result, new = draft_finish(wizard.draft, _writer(wizard, form.cleaned_data))
    except ApiError as error:
        form.add_error(error.param if error.param in form.fields else None, error.text)
        return None
    if new:
        messages.success(wizard.request, wizard.done())
    else:
        messages.info(wizard.request, _("This was done already."))
    return HttpResponseRedirect(result)


def _writer(wizard: Wizard, wanted: dict[str, Any]) -> Callable[[ConsoleDraft], str]:
    def write(draft: ConsoleDraft) -> str:
        # What another window sent meanwhile counts.
        wizard.draft = draft
        return wizard.finish(draft, wizard.actor, wanted)

    return write


def _keep(wizard: Wizard, page: Page, form: forms.Form) -> None:
    data = wizard.request.POST
    known = [name for name in data if not name.startswith("_") and name not in ("csrfmiddlewaretoken", page.secret_field)]
    values: Kept = {name: data.getlist(name) for name in known}
    secret = (form.cleaned_data.get(page.secret_field) or "") if page.secret_field else ""
    if wizard.draft is None:
        wizard.draft = draft_begin(
            kind=wizard.kind,
            operator=cast(User, wizard.request.user),
            data={page.name: values, **wizard.notes()},
            secret=secret,
        )
        return
    wizard.draft.data = {**wizard.draft.data, page.name: values, **wizard.notes()}
    wizard.draft.secret = secret or wizard.draft.secret
    draft_keep(wizard.draft)


def _address(wizard: Wizard, number: int) -> str:
    if wizard.draft is None:
        raise Http404
    return f"{wizard.request.path}?{urlencode({'draft': wizard.draft.pk, 'page': wizard.pages[number].name})}"
