"""Price files: read into a proposal, reviewed line by line, applied; and the models that nobody has a price for."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from billing.events.admin import operator_actor
from iafactory.common import clock
from iafactory.common.admin import EMPTY, ReadOnlyAdmin, ReasonForm, change_url, list_url
from iafactory.common.errors import ApiError
from iafactory.common.formats import number_text
from routing.catalog import ROUTING_FOLDER
from routing.price_import.models import PriceProposal, PriceProposalLine
from routing.price_import.reading import PriceFileError, price_file_read
from routing.price_import.selectors import unpriced_profiles
from routing.price_import.services import price_proposal_apply, price_proposal_close, price_proposal_create

LARGEST_FILE = 20 * 1024 * 1024


class PriceFileForm(forms.Form):
    """Which prices are read."""

    file = forms.FileField(
        label=_("Price file"),
        required=False,
        help_text=_("JSON: our own table, the reference table, or LiteLLM's model_prices_and_context_window.json."),
    )
    shipped = forms.BooleanField(label=_("The table that comes with this version"), required=False)

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        if not self.errors and bool(wanted.get("file")) == bool(wanted.get("shipped")):
            raise forms.ValidationError(_("Choose a file, or the shipped table."))
        if wanted.get("file") and wanted["file"].size > LARGEST_FILE:
            self.add_error("file", _("At most 20 MB."))
        return wanted


class ReviewForm(ReasonForm):
    """Which lines of a proposal are applied, from when on, and why."""

    effective_from = forms.SplitDateTimeField(
        label=_("In force from"), required=False, widget=AdminSplitDateTime, help_text=_("UTC. Empty: at once.")
    )
    lines = forms.TypedMultipleChoiceField(coerce=UUID, required=False)
    field_order = ("effective_from", "reason")

    def __init__(self, *args: Any, proposal: PriceProposal, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["lines"].choices = [(str(pk), pk) for pk in proposal.lines.values_list("pk", flat=True)]  # type: ignore[attr-defined]
        self.fields["reason"].widget.attrs.pop("autofocus", None)
        self.fields["reason"].help_text = _("Kept with the event.")


@admin.register(PriceProposal)
class PriceProposalAdmin(ReadOnlyAdmin):
    """What price files would change."""

    list_display = ("created_at", "source", "state_mark", "new", "changed", "missing", "suspicious", "unchanged")
    list_filter = ("state", "created_at")
    search_fields = ("source",)
    change_list_template = "admin/routing/price_proposals.html"

    def get_queryset(self, request: HttpRequest) -> "QuerySet[PriceProposal]":
        def count(**wanted: Any) -> Count:
            return Count("lines", filter=Q(**wanted))

        counted = {f"{kind}_count": count(lines__kind=kind) for kind in PriceProposalLine.Kind.values}
        warned = Count("lines", filter=~Q(lines__warnings=[]))
        rows: QuerySet[PriceProposal] = super().get_queryset(request)
        return rows.annotate(**counted, warned_count=warned)

    @admin.display(description=_("state"), ordering="state")
    def state_mark(self, proposal: PriceProposal) -> SafeString:
        kind = {"open": "overdue", "applied": "passed"}.get(proposal.state, "closed")
        return format_html('<span class="state state-{}">{}</span>', kind, proposal.get_state_display())

    @admin.display(description=_("new"))
    def new(self, proposal: PriceProposal) -> int:
        return int(proposal.new_count)  # type: ignore[attr-defined]

    @admin.display(description=_("changed"))
    def changed(self, proposal: PriceProposal) -> int:
        return int(proposal.changed_count)  # type: ignore[attr-defined]

    @admin.display(description=_("not in the file"))
    def missing(self, proposal: PriceProposal) -> int:
        return int(proposal.missing_count)  # type: ignore[attr-defined]

    @admin.display(description=_("suspicious"))
    def suspicious(self, proposal: PriceProposal) -> int:
        return int(proposal.warned_count)  # type: ignore[attr-defined]

    def may_apply(self, request: HttpRequest) -> bool:
        """Applying makes price rows: the right to add them is the right to apply."""
        return request.user.has_perm("routing.add_modelprice")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_view_permission(request, obj) or self.may_apply(request)

    def get_urls(self) -> list[Any]:
        def view(route: str, function: Any, name: str) -> Any:
            return path(route, self.admin_site.admin_view(function), name=f"routing_priceproposal_{name}")

        return [
            view("import/", self.import_view, "import"),
            view("unpriced/", self.unpriced_view, "unpriced"),
            view("<uuid:proposal_id>/close/", self.close_view, "close"),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {**(extra_context or {}), "may_apply": self.may_apply(request)})

    def import_view(self, request: HttpRequest) -> HttpResponse:
        """Read a file and lead to what it would change."""
        if not self.may_apply(request):
            raise PermissionDenied
        form = PriceFileForm(request.POST, request.FILES) if request.method == "POST" else PriceFileForm()
        if request.method == "POST" and form.is_valid():
            answer = self._read(request, form)
            if answer is not None:
                return answer
        return self.render_step(
            request,
            template="admin/routing/price_import.html",
            title=_("Import prices"),
            form=form,
            submit=_("Show what would change"),
            explanation=_("Nothing changes yet: the differences become a proposal for you to review."),
            back=list_url("routing.priceproposal"),
        )

    def _read(self, request: HttpRequest, form: PriceFileForm) -> HttpResponse | None:
        upload = form.cleaned_data["file"]
        data = upload.read() if upload else (ROUTING_FOLDER / "model_prices.json").read_bytes()
        try:
            file = price_file_read(data, name=upload.name if upload else "shipped", now=clock.now())
        except PriceFileError as error:
            form.add_error("file", str(error))
            return None
        proposal, found = price_proposal_create(file=file, actor=operator_actor(request))
        if proposal is None:
            told = _("The file changes nothing. Prices that are the same: %s.") % number_text(found.unchanged)
            self.message_user(request, told, messages.SUCCESS)
            return HttpResponseRedirect(list_url("routing.priceproposal"))
        return HttpResponseRedirect(change_url("routing.priceproposal", proposal.pk))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The review: what would change, and what of it is applied."""
        proposal = self.get_object(request, object_id)
        if proposal is None or not self.has_view_permission(request, proposal):
            return super().change_view(request, object_id, form_url, extra_context)
        may_apply = self.may_apply(request) and proposal.state == PriceProposal.State.OPEN
        form = ReviewForm(request.POST or None, proposal=proposal)
        if request.method == "POST":
            if not self.may_apply(request):
                raise PermissionDenied
            if form.is_valid() and self._apply(request, proposal, form):
                return HttpResponseRedirect(change_url("routing.priceproposal", proposal.pk))
        lines = list(proposal.lines.select_related("profile", "profile__provider", "present", "applied"))
        chosen = {str(pk) for pk in request.POST.getlist("lines")} if request.method == "POST" else None
        shown = [
            (line, line.applicable and (not line.warnings if chosen is None else str(line.pk) in chosen))
            for line in lines
            if line.kind != PriceProposalLine.Kind.MISSING
        ]
        # Those to look at twice come first.
        shown.sort(key=lambda pair: (not pair[0].warnings, pair[0].profile.slug))
        return self.render_step(
            request,
            template="admin/routing/price_proposal.html",
            title=_("Review prices"),
            subtitle=proposal,
            form=form,
            proposal=proposal,
            shown=shown,
            missing=[line for line in lines if line.kind == PriceProposalLine.Kind.MISSING],
            may_apply=may_apply,
            submit=_("Apply what is ticked"),
            close=reverse("admin:routing_priceproposal_close", args=[proposal.pk]),
            back=list_url("routing.priceproposal"),
        )

    def _apply(self, request: HttpRequest, proposal: PriceProposal, form: ReviewForm) -> bool:
        wanted = form.cleaned_data
        try:
            rows = price_proposal_apply(
                proposal=proposal,
                line_ids=wanted["lines"],
                actor=operator_actor(request),
                reason=wanted["reason"],
                effective_from=wanted["effective_from"],
            )
        except ApiError as error:
            form.add_error(error.param if error.param in form.fields and error.param != "lines" else None, error.text)
            return False
        self.log_change(request, proposal, f"Applied {len(rows)} prices.")
        at = rows[0].effective_from
        said = ngettext(
            "%(count)s price is added, in force from %(at)s UTC.",
            "%(count)s prices are added, in force from %(at)s UTC.",
            len(rows),
        ) % {"count": number_text(len(rows)), "at": f"{at:%Y-%m-%d %H:%M}"}
        self.message_user(request, said, messages.SUCCESS)
        return True

    def close_view(self, request: HttpRequest, proposal_id: UUID) -> HttpResponse:
        """Leave the rest unapplied."""
        if not self.may_apply(request):
            raise PermissionDenied
        proposal = get_object_or_404(PriceProposal, pk=proposal_id)
        address = change_url("routing.priceproposal", proposal.pk)
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            price_proposal_close(proposal=proposal, actor=operator_actor(request), reason=form.cleaned_data["reason"])
            self.log_change(request, proposal, "Closed.")
            self.message_user(request, _("The proposal is closed."), messages.SUCCESS)
            return HttpResponseRedirect(list_url("routing.priceproposal"))
        return self.render_step(
            request,
            title=_("Close this proposal?"),
            subtitle=proposal,
            form=form,
            submit=_("Close it"),
            explanation=_("What is not applied stays as it is; the file can be imported again."),
            back=address,
        )

    def unpriced_view(self, request: HttpRequest) -> HttpResponse:
        """Models whose calls are refused because nobody knows their price."""
        if not request.user.has_perm("routing.view_modelprofile"):
            raise PermissionDenied
        return TemplateResponse(
            request,
            "admin/routing/unpriced.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": _("Models without a price"),
                "unpriced": unpriced_profiles(now=clock.now()),
                "may_add": request.user.has_perm("routing.add_modelprice"),
                "empty": EMPTY,
            },
        )
