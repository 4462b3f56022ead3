"""The lot page's buttons: void, refund, dispute. Each asks, shows what will move, and moves it once."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from billing.events.admin import operator_actor
from billing.events.reasons import reason_text
from billing.ledger.admin import LotAdmin
from billing.ledger.models import LedgerAccount, LedgerTransaction, Lot, Wallet
from billing.ledger.services import dispute_lose, dispute_win, lot_refund_fail, lot_refund_open, lot_refundable, lot_void
from iafactory.common.admin import ReasonForm, change_link, change_url, decimal_text, moment_text
from iafactory.common.ids import uuid7, uuid_or_none
from iafactory.common.money import CREDIT

BACK = "back:"


def free_of(lot: Lot) -> Decimal:
    """Credits that a void or a refund may take: in the balance, unspent, unheld."""
    return lot.remaining - lot.held if lot.booked_at is not None else Decimal(0)


def worth_of(lot: Lot, credits: Decimal) -> str:
    """What `credits` of a lot were paid, rounded down as refunds are; in the lot's currency."""
    share = lot_refundable(lot) if credits == free_of(lot) else lot.paid_amount * credits / lot.amount
    return f"{decimal_text(share.quantize(Decimal('0.0001'), ROUND_DOWN))} {lot.paid_currency}".strip()


@dataclass(frozen=True, slots=True)
class Taking:
    """A refund or lost dispute of a lot. `open`: nothing has given it back."""

    transaction: LedgerTransaction
    credits: Decimal
    debt: Decimal
    open: bool

    @property
    def key(self) -> str:
        return self.transaction.idempotency_key or ""

    def __str__(self) -> str:
        debt = str(_(", debt %s") % decimal_text(self.debt)) if self.debt else ""
        told = _("%(credits)s credits%(debt)s on %(at)s UTC: %(reason)s") % {
            "credits": decimal_text(self.credits),
            "debt": debt,
            "at": moment_text(self.transaction.at),
            "reason": reason_text(self.transaction.reason),
        }
        return str(told)


def lot_takings(lot: Lot, kind: str) -> list[Taking]:
    """What was taken from `lot` as `kind` and may be given back, newest first, in three queries.

    A dispute that found nothing left in the lot moved no lot: only its key names it.
    """
    of_lot = Q(entries__lot_ids__contains=[lot.pk], entries__ledger_account=lot.wallet_id)
    found = (
        LedgerTransaction.objects.filter(
            of_lot | Q(idempotency_key__contains=str(lot.pk)), account=lot.wallet_id, at__gte=lot.created_at, kind=kind
        )
        .exclude(idempotency_key__isnull=True)
        .exclude(idempotency_key__startswith=BACK)
        .distinct()
        .prefetch_related("entries__ledger_account")
        .order_by("-at", "-id")
    )
    takings = list(found)
    returned = set(
        LedgerTransaction.objects.filter(idempotency_key__in=[f"{BACK}{row.idempotency_key}" for row in takings]).values_list(
            "idempotency_key", flat=True
        )
    )

    def moved(row: LedgerTransaction, account_kind: str) -> Decimal:
        amounts = (-entry.amount for entry in row.entries.all() if entry.ledger_account.kind == account_kind)
        return sum(amounts, Decimal(0))

    return [
        Taking(
            row,
            credits=moved(row, LedgerAccount.Kind.WALLET),
            debt=moved(row, LedgerAccount.Kind.DEBT),
            open=f"{BACK}{row.idempotency_key}" not in returned,
        )
        for row in takings
    ]


class TakeForm(ReasonForm):
    """Why credits are taken. `deed` makes one taking of however many submits."""

    deed = forms.UUIDField(widget=forms.HiddenInput, initial=uuid7)


class TakeAmountForm(TakeForm):
    """How many of a lot's free credits are taken."""

    amount = forms.DecimalField(
        label=_("Credits"),
        required=False,
        min_value=CREDIT,
        max_digits=20,
        decimal_places=6,
        widget=forms.NumberInput(attrs={"autofocus": True, "step": "any"}),
    )

    field_order = ("amount", "reason", "deed")

    def __init__(self, *args: Any, lot: Lot, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.free = free_of(lot)
        self.fields["amount"].help_text = _("At most %s. Empty: all that is free then.") % decimal_text(self.free)
        self.fields["reason"].widget.attrs.pop("autofocus", None)

    def clean_amount(self) -> Decimal | None:
        amount: Decimal | None = self.cleaned_data["amount"]
        if amount is not None and amount > self.free:
            raise forms.ValidationError(_("Only %s credits of this lot are free.") % decimal_text(self.free))
        return amount


class GiveBackForm(ReasonForm):
    """Which taking is given back, and why."""

    taking = forms.ChoiceField(label=_("Which"), widget=forms.RadioSelect)

    field_order = ("taking", "reason")

    def __init__(self, *args: Any, takings: list[Taking], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["taking"]
        field.choices = [(taking.key, str(taking)) for taking in takings]  # type: ignore[attr-defined]
        if len(takings) == 1:
            field.initial = takings[0].key


class StepRefused(Exception):
    """The lot is not, or not any more, in a state in which this may be done. Carries the text for the operator."""


@dataclass(frozen=True, slots=True)
class LotStep:
    """A button of the lot page. `gives_back`: it undoes a taking of `kind`; otherwise it is one."""

    name: str
    label: Any
    question: Any
    submit: Any
    explanation: Any
    kind: str
    deed: Callable[..., Decimal]
    gives_back: bool = False
    takes_amount: bool = False
    bought_only: bool = True


STEPS = (
    LotStep(
        name="void",
        label=_("Void"),
        question=_("Void these credits?"),
        submit=_("Void the credits"),
        explanation=_("The credits go back to where they were issued. What open calls hold stays until they end."),
        kind=LedgerTransaction.Kind.VOID,
        deed=lot_void,
        takes_amount=True,
        bought_only=False,
    ),
    LotStep(
        name="refund",
        label=_("Refund: park"),
        question=_("Park these credits for a refund?"),
        submit=_("Park the credits"),
        explanation=_(
            "The credits leave the balance while their money is on its way back. This moves no money: send it with the gateway "
            "or by hand. Should it fail, “Refund failed” restores the credits."
        ),
        kind=LedgerTransaction.Kind.REFUND,
        deed=lot_refund_open,
        takes_amount=True,
    ),
    LotStep(
        name="refund-failed",
        label=_("Refund failed"),
        question=_("Restore the parked credits?"),
        submit=_("Restore the credits"),
        explanation=_(
            "The money did not go back: the parked credits return to the lot. A lot that ended meanwhile stays ended."
        ),
        kind=LedgerTransaction.Kind.REFUND,
        deed=lot_refund_fail,
        gives_back=True,
    ),
    LotStep(
        name="dispute-lost",
        label=_("Dispute lost"),
        question=_("Book this dispute as lost?"),
        submit=_("Book as lost"),
        explanation=_(
            "The customer's bank took the money back. What is free in the lot goes; the rest of the lot becomes debt, which "
            "stops new calls until the next purchase pays it."
        ),
        kind=LedgerTransaction.Kind.DISPUTE,
        deed=dispute_lose,
    ),
    LotStep(
        name="dispute-won",
        label=_("Dispute won"),
        question=_("Book this dispute as won?"),
        submit=_("Book as won"),
        explanation=_(
            "Undoes the lost dispute: its credits return and its debt is forgiven; debt paid meanwhile comes back as credits."
        ),
        kind=LedgerTransaction.Kind.DISPUTE,
        deed=dispute_win,
        gives_back=True,
    ),
)


def refusal(lot: Lot, step: LotStep) -> str | None:
    """Why `step` cannot be taken with `lot` now; None when it can."""
    if step.bought_only and not lot.paid_amount and lot.kind != Lot.Kind.PURCHASE:
        return str(_("Nobody paid for this lot."))
    if step.gives_back:
        if not any(taking.open for taking in lot_takings(lot, step.kind)):
            return str(_("Nothing was taken from this lot that could be given back."))
        return None
    if step.name == "dispute-lost":
        if any(taking.open for taking in lot_takings(lot, step.kind)):
            return str(_("A lost dispute of this lot is booked already."))
        return None
    if lot.booked_at is None:
        return str(_("This lot has not begun: its credits are not in the balance yet."))
    if not free_of(lot):
        return str(_("Nothing of this lot is free: it is spent, ended, or held by open calls."))
    return None


admin.site.unregister(Lot)


@admin.register(Lot)
class LotPageAdmin(LotAdmin):
    """Lots, with what operators may do to one. Who may change lots has the buttons."""

    def has_steps_permission(self, request: HttpRequest) -> bool:
        """Rows stay read-only: the right to change a lot is the right to move its credits by a service."""
        return request.user.has_perm("billing.change_lot")

    def get_urls(self) -> list[Any]:
        return [
            path(
                f"<uuid:lot_id>/{step.name}/",
                self.admin_site.admin_view(self._view_of(step)),
                name=f"billing_lot_{step.name.replace('-', '_')}",
            )
            for step in STEPS
        ] + super().get_urls()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        steps = []
        identifier = uuid_or_none(object_id)
        if identifier is not None and self.has_steps_permission(request):
            lot = Lot.objects.filter(pk=identifier).first()
            bought = lot is not None and (lot.paid_amount or lot.kind == Lot.Kind.PURCHASE)
            steps = [
                (reverse(f"admin:billing_lot_{step.name.replace('-', '_')}", args=[identifier]), step.label)
                for step in STEPS
                if bought or not step.bought_only
            ]
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "steps": steps})

    def _view_of(self, step: LotStep) -> Callable[[HttpRequest, UUID], HttpResponse]:
        def view(request: HttpRequest, lot_id: UUID) -> HttpResponse:
            if not self.has_steps_permission(request):
                raise PermissionDenied
            lot = get_object_or_404(Lot.objects.select_related("wallet__account"), pk=lot_id)
            return self._step(request, lot, step)

        return view

    def _step(self, request: HttpRequest, lot: Lot, step: LotStep) -> HttpResponse:
        """Form, then a page to confirm, then the deed, once however often the last button is pressed."""
        key = self._key(request, lot, step)
        if request.method == "POST" and self._done(key, step):
            return self._done_before(request, lot)
        if (why := refusal(lot, step)) is not None:
            self.message_user(request, why, messages.ERROR)
            return self._back(lot)
        form = self._form(request, lot, step)
        page: dict[str, Any] = {
            "subtitle": lot,
            "form": form,
            "items": self._facts(lot, step),
            "explanation": step.explanation,
            "back": change_url("billing.lot", lot.pk),
        }
        if request.method != "POST" or "_edit" in request.POST or not form.is_valid():
            return self.render_step(request, title=step.label, submit=_("Continue"), **page)
        if "_confirm" not in request.POST:
            told = self._told(lot, step, form)
            dangerous = not step.gives_back
            return self.render_step(request, title=step.question, submit=step.submit, confirm=told, dangerous=dangerous, **page)
        return self._do(request, lot, step, form, key)

    def _form(self, request: HttpRequest, lot: Lot, step: LotStep) -> ReasonForm:
        data = request.POST if request.method == "POST" else None
        if step.gives_back:
            return GiveBackForm(data, takings=[taking for taking in lot_takings(lot, step.kind) if taking.open])
        return TakeAmountForm(data, lot=lot) if step.takes_amount else TakeForm(data)

    def _key(self, request: HttpRequest, lot: Lot, step: LotStep) -> str:
        """The idempotency key that the form stands for; empty while it stands for none."""
        if step.gives_back:
            return request.POST.get("taking", "")
        deed = uuid_or_none(request.POST.get("deed", ""))
        return f"operator:{step.name}:{lot.pk}:{deed}" if deed else ""

    def _done(self, key: str, step: LotStep) -> bool:
        booked_as = f"{BACK}{key}" if step.gives_back else key
        return bool(key) and LedgerTransaction.objects.filter(idempotency_key=booked_as).exists()

    def _facts(self, lot: Lot, step: LotStep) -> list[Any]:
        """What the operator should know before filling in the form."""
        account = format_html("{}: {}", _("Account"), change_link("billing.account", lot.wallet_id, lot.wallet.account))
        if step.gives_back:
            return [account]
        free = free_of(lot)
        facts = [
            account,
            _("Free: %(free)s of %(amount)s credits") % {"free": decimal_text(free), "amount": decimal_text(lot.amount)},
            _("Held by open calls, and stays: %s") % decimal_text(lot.held),
        ]
        if step.kind != LedgerTransaction.Kind.VOID:
            facts.append(_("Paid: %s") % worth_of(lot, lot.amount))
        if step.kind == LedgerTransaction.Kind.REFUND:
            facts.append(_("Refundable: %s") % worth_of(lot, free))
        if step.kind == LedgerTransaction.Kind.DISPUTE:
            facts.append(_("Debt it leaves: %s credits") % decimal_text(lot.amount - free))
            parked = [taking for taking in lot_takings(lot, LedgerTransaction.Kind.REFUND) if taking.open]
            facts += [_("A refund took credits of this lot and becomes debt too: %s") % taking for taking in parked]
        return facts

    def _told(self, lot: Lot, step: LotStep, form: ReasonForm) -> list[tuple[Any, Any]]:
        wanted = form.cleaned_data
        told: list[tuple[Any, Any]] = []
        if step.gives_back:
            [taking] = [taking for taking in lot_takings(lot, step.kind) if taking.key == wanted["taking"]]
            told.append((_("Gives back"), taking))
        else:
            free = free_of(lot)
            credits = wanted.get("amount") or free
            told.append((_("Credits taken"), decimal_text(credits)))
            told.append((_("Held, stays"), decimal_text(lot.held)))
            if step.kind == LedgerTransaction.Kind.REFUND:
                told.append((_("Worth"), worth_of(lot, credits)))
            if step.kind == LedgerTransaction.Kind.DISPUTE:
                told.append((_("Becomes debt"), decimal_text(lot.amount - free)))
        return [*told, (_("Reason"), wanted["reason"])]

    def _do(self, request: HttpRequest, lot: Lot, step: LotStep, form: ReasonForm, key: str) -> HttpResponse:
        wanted = form.cleaned_data
        arguments: dict[str, Any] = {"reason": wanted["reason"], "actor": operator_actor(request), "idempotency_key": key}
        if step.takes_amount:
            arguments["amount"] = wanted["amount"]
        try:
            with transaction.atomic():
                # The wallet's lock comes first: of two submits the second waits here, and then sees what the first did.
                debt_before = Wallet.objects.select_for_update(no_key=True).get(pk=lot.wallet_id).debt
                if self._done(key, step):
                    return self._done_before(request, lot)
                lot.refresh_from_db(fields=["remaining", "held", "booked_at"])
                if (why := refusal(lot, step)) is not None:
                    raise StepRefused(why)
                outcome = step.deed(lot=lot, **arguments)
                if step.takes_amount and not outcome:
                    raise StepRefused(_("Nothing of this lot is free: it is spent, ended, or held by open calls."))
                wallet = Wallet.objects.get(pk=lot.wallet_id)
                text = self._outcome(lot, step, outcome, debt_change=wallet.debt - debt_before)
                self.log_change(request, lot, text)
        except StepRefused as refused:
            self.message_user(request, str(refused), messages.ERROR)
            return self._back(lot)
        self.message_user(request, f"{text} {_('The balance is now %s.') % decimal_text(wallet.balance)}", messages.SUCCESS)
        return self._back(lot)

    def _outcome(self, lot: Lot, step: LotStep, outcome: Decimal, *, debt_change: Decimal) -> str:
        """What happened, from what the service answers."""
        credits = decimal_text(outcome)
        if step.name == "void":
            return str(_("Voided %s credits.") % credits)
        if step.name == "refund":
            share = lot.paid_amount * outcome / lot.amount
            worth = f"{decimal_text(share.quantize(Decimal('0.0001'), ROUND_DOWN))} {lot.paid_currency}".strip()
            return str(_("Parked %(credits)s credits, worth %(worth)s.") % {"credits": credits, "worth": worth})
        if step.name == "dispute-lost":
            taken = decimal_text(lot.amount - outcome)
            return str(_("Took %(taken)s credits; %(debt)s became debt.") % {"taken": taken, "debt": credits})
        forgiven = str(_(" Debt forgiven: %s.") % decimal_text(-debt_change)) if debt_change else ""
        return str(_("Restored %s credits.") % credits) + forgiven

    def _done_before(self, request: HttpRequest, lot: Lot) -> HttpResponse:
        self.message_user(request, _("This form had done its work before; nothing was moved again."), messages.WARNING)
        return self._back(lot)

    def _back(self, lot: Lot) -> HttpResponse:
        return HttpResponseRedirect(change_url("billing.lot", lot.pk))
