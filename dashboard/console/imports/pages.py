"""Importing a list: the file, then what every line would do, then all of it at once or nothing.

The preview writes every line through its service and takes it all back; what is confirmed is reckoned anew and must be what
was shown.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from django import forms
from django.db import transaction
from django.http import HttpRequest, QueryDict
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.events.services import Actor, event_record
from dashboard.console.wizards.base import Page, PageForm, ReasonForm, Wizard
from dashboard.console.wizards.models import ConsoleDraft
from iafactory.common import clock
from iafactory.common.admin import list_url
from iafactory.common.errors import ApiError
from iafactory.common.formats import number_text
from routing.economics import PlanEconomics, public_economics, risk_accepted

from .lists import (
    CHANGED,
    MODEL_PRICES,
    NEW,
    PLAN_PRICES,
    PLANS,
    REFUSED,
    UNCHANGED,
    Line,
    ListKind,
    Writing,
    columns_check,
    lines_write,
)
from .reading import LARGEST_FILE, MOST_ROWS, FileRefused, Table, table_read

SHOWN_LINES = 300
RIGHT = "dashboard.import_consoledraft"


class FileForm(PageForm):
    """The file; once it was read, another one or none."""

    file = forms.FileField(label=_("File"), required=False, max_length=200, allow_empty_file=True)

    def __init__(self, data: QueryDict | None, files: Any, *, kind: ListKind, has_file: bool) -> None:
        super().__init__(data, files)
        self.kind, self.has_file = kind, has_file
        told = _("CSV (UTF-8) or XLSX, at most %(mb)s MB and %(rows)s lines, as this list's own buttons write it.")
        self.fields["file"].help_text = told % {"mb": LARGEST_FILE // 1024 // 1024, "rows": number_text(MOST_ROWS)}
        self.table: Table | None = None

    def clean_file(self) -> Any:
        upload = self.cleaned_data["file"]
        if upload is None:
            if not self.has_file:
                raise forms.ValidationError(_("Choose a file."))
            return None
        if upload.size > LARGEST_FILE:
            raise forms.ValidationError(_("A file has at most %s MB.") % (LARGEST_FILE // 1024 // 1024))
        try:
            self.table = table_read(upload.read(), name=upload.name or "")
            columns_check(self.kind, self.table)
        except FileRefused as error:
            raise forms.ValidationError(str(error)) from None
        return upload.name


class FilePage(Page):
    name = "file"
    title = _("File")
    explanation = _("Nothing is written yet: the next page shows what every line would do.")
    template = "admin/imports/file.html"
    submit = _("Show what would change")

    def form(self, wizard: Wizard, data: QueryDict | None) -> FileForm:
        assert isinstance(wizard, ListImport)
        fresh = data is not None and data is wizard.request.POST
        files = wizard.request.FILES if fresh else None
        return FileForm(data, files, kind=wizard.list_kind, has_file="table" in wizard.given)

    def take(self, wizard: Wizard, form: forms.Form) -> None:
        assert isinstance(wizard, ListImport)
        assert isinstance(form, FileForm)
        wizard.table_read = form.table

    def context(self, wizard: Wizard, form: forms.Form) -> dict[str, Any]:
        assert isinstance(wizard, ListImport)
        kept = wizard.given.get("table")
        return {"columns": wizard.list_kind.columns, "kept": kept["name"] if kept else ""}


@dataclass(frozen=True, slots=True)
class Reckoned:
    """What all lines together would do."""

    lines: list[Line]
    risky: list[PlanEconomics]
    seen: str
    """What stands for exactly this file with exactly these outcomes."""

    def count(self, state: str) -> int:
        return sum(line.state == state for line in self.lines)


class ConfirmForm(ReasonForm):
    """Why, for exactly what was shown."""

    seen = forms.CharField(widget=forms.HiddenInput)

    def __init__(self, data: QueryDict | None, *, risky: bool) -> None:
        super().__init__(data, risky=risky)
        if risky:
            self.fields["accept_risk"].label = _("I have seen that plans on sale can lose money after this")


class PreviewPage(Page):
    name = "preview"
    title = _("What would change")
    template = "admin/imports/preview.html"
    submit = _("Import all of it")

    def form(self, wizard: Wizard, data: QueryDict | None) -> ConfirmForm:
        assert isinstance(wizard, ListImport)
        return ConfirmForm(data, risky=bool(wizard.reckoned().risky))

    def context(self, wizard: Wizard, form: forms.Form) -> dict[str, Any]:
        assert isinstance(wizard, ListImport)
        found, table = wizard.reckoned(), wizard.given["table"]
        # What needs looking at comes first.
        order = {REFUSED: 0, CHANGED: 1, NEW: 2, UNCHANGED: 3}
        lines = sorted(found.lines, key=lambda line: (order[line.state], line.number))
        return {
            "file": table["name"],
            "sha256": table["sha256"],
            "lines": lines[:SHOWN_LINES],
            "hidden": max(0, len(lines) - SHOWN_LINES),
            "counts": [(state, label, found.count(state)) for state, label in LABELS.items()],
            "labels": LABELS,
            "refused": found.count(REFUSED),
            "nothing": not found.count(NEW) and not found.count(CHANGED),
            "warnings": [f"{one.plan.name}: {risk}" for one in found.risky for risk in one.risks],
            "seen": found.seen,
        }


LABELS = {
    NEW: _("new"),
    CHANGED: _("changed"),
    UNCHANGED: _("unchanged"),
    REFUSED: _("refused"),
}


class ListImport(Wizard):
    """Imports a list."""

    list_kind: ListKind
    model_label: str
    needed: tuple[str, ...]
    pages = (FilePage(), PreviewPage())

    def __init__(self, request: HttpRequest, draft: ConsoleDraft | None) -> None:
        super().__init__(request, draft)
        self.table_read: Table | None = None
        self._reckoned: Reckoned | None = None

    @classmethod
    def may(cls, request: HttpRequest) -> bool:
        return request.user.has_perms([RIGHT, *cls.needed])

    def notes(self) -> dict[str, Any]:
        return {} if self.table_read is None else {"table": self.table_read.told()}

    def reckoned(self) -> Reckoned:
        """What the lines would do, found by writing them and taking everything back; once a request."""
        if self._reckoned is None:
            with transaction.atomic():
                self._reckoned = self._write(self.actor, "preview")
                transaction.set_rollback(True)
        return self._reckoned

    def _write(self, actor: Actor, reason: str) -> Reckoned:
        table = Table.of(self.given["table"])
        before = {one.plan.pk: one.figures() for one in public_economics(at=clock.now())}
        lines = lines_write(self.list_kind, table, Writing(actor, reason, clock.now()))
        after = public_economics(at=clock.now())
        risky = [one for one in after if one.can_lose_money and one.figures() != before.get(one.plan.pk)]
        told = [table.sha256, [line.told() for line in lines], [one.risks for one in risky]]
        return Reckoned(lines, risky, hashlib.sha256(json.dumps(told).encode()).hexdigest())

    def finish(self, draft: ConsoleDraft, actor: Actor, wanted: dict[str, Any]) -> str:
        table = self.given["table"]
        found = self._write(actor, wanted["reason"])
        self._reckoned = None
        if found.count(REFUSED):
            raise ApiError(409, "import_refused", gettext("Lines are refused: mend the file and read it again."))
        if found.seen != wanted["seen"]:
            told = gettext("This is not what you saw: something changed meanwhile. Look at it again.")
            raise ApiError(409, "import_changed", told)
        if not found.count(NEW) and not found.count(CHANGED):
            raise ApiError(409, "import_refused", gettext("The file changes nothing."))
        if found.risky and not wanted.get("accept_risk"):
            told = gettext("Plans on sale can lose money after this: confirm that you have seen it.")
            raise ApiError(409, "risk_not_accepted", told, param="accept_risk")
        for economics in found.risky:
            risk_accepted(economics=economics, actor=actor, reason=wanted["reason"])
        event_record(
            kind="table.imported",
            object_type=self.list_kind.name,
            object_id="",
            actor=actor,
            after={
                "file": table["name"],
                "sha256": table["sha256"],
                **{state: found.count(state) for state in (NEW, CHANGED, UNCHANGED)},
            },
            reason=wanted["reason"],
        )
        return list_url(self.model_label)

    def done(self) -> Any:
        return _("The list is imported.")


class PlanImport(ListImport):
    kind = "import-plan"
    title = _("Import plans")
    list_kind = PLANS
    model_label = "billing.plan"
    needed = ("billing.add_plan", "billing.change_plan")


class PlanPriceImport(ListImport):
    kind = "import-planprice"
    title = _("Import prices of plans")
    list_kind = PLAN_PRICES
    model_label = "billing.planprice"
    needed = ("billing.add_planprice",)


class ModelPriceImport(ListImport):
    kind = "import-modelprice"
    title = _("Import list prices")
    list_kind = MODEL_PRICES
    model_label = "routing.modelprice"
    needed = ("routing.add_modelprice",)
