"""Asks once more, with the figures, before a change after which a plan on sale can lose money."""

from typing import Any

from django import forms
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from billing.events.admin import operator_actor
from billing.plans.models import Plan
from iafactory.common import clock
from routing.economics import PlanEconomics, plans_economics, public_economics, risk_accepted

from .figures import economics_table

CONFIRMED = "_loss_confirmed"


class Unconfirmed(Exception):
    """Ends the transaction of a save that an operator has yet to confirm."""

    def __init__(self, plans: list[PlanEconomics]) -> None:
        super().__init__()
        self.plans = plans


class RiskForm(forms.Form):
    """Why a plan is sold although it can lose money."""

    prefix = "loss"
    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
        help_text=_("Kept with the event beside your name and these figures."),
    )


class LossGuardMixin:
    """For pages whose objects decide what plans earn or cost.

    The change is saved, the plans concerned are reckoned anew, and everything is rolled back when one on sale can now lose
    money in another way than before: the operator sees the figures and confirms with a reason, or goes back.
    """

    def plans_concerned(self, obj: Any) -> "QuerySet[Plan]":
        """The plans whose figures `obj` decides about."""
        return Plan.objects.all()

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method != "POST":
            return super().changeform_view(request, *args, **kwargs)  # type: ignore[misc,no-any-return]
        request.risks_before = {  # type: ignore[attr-defined]
            economics.plan.pk: economics.figures() for economics in public_economics(at=clock.now())
        }
        try:
            return super().changeform_view(request, *args, **kwargs)  # type: ignore[misc,no-any-return]
        except Unconfirmed as unconfirmed:
            return self._ask(request, unconfirmed.plans)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)  # type: ignore[misc]
        at = max(clock.now(), getattr(form.instance, "effective_from", clock.now()))
        before = getattr(request, "risks_before", {})
        on_sale = self.plans_concerned(form.instance).filter(visibility=Plan.Visibility.PUBLIC)
        risky = [
            economics
            for economics in plans_economics(on_sale, at=at)
            if economics.can_lose_money and economics.figures() != before.get(economics.plan.pk)
        ]
        if not risky:
            return
        risk_form = RiskForm(request.POST)
        if CONFIRMED not in request.POST or not risk_form.is_valid():
            raise Unconfirmed(risky)
        for economics in risky:
            risk_accepted(economics=economics, actor=operator_actor(request), reason=risk_form.cleaned_data["reason"])

    def _ask(self, request: HttpRequest, plans: list[PlanEconomics]) -> HttpResponse:
        own = (CONFIRMED, "loss-reason", "csrfmiddlewaretoken")
        posted = [(name, value) for name, values in request.POST.lists() if name not in own for value in values]
        return self.render_step(  # type: ignore[attr-defined,no-any-return]
            request,
            template="admin/routing/loss_confirm.html",
            title=_("This can lose money"),
            form=RiskForm(request.POST if CONFIRMED in request.POST else None),
            plans=[(economics, economics_table(economics)) for economics in plans],
            posted=posted,
            confirmed=CONFIRMED,
            submit=_("Do it all the same"),
            back=request.get_full_path(),
        )
