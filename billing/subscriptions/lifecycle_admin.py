"""The lifecycle in the console: what operators do to subscriptions, prices moved with a preview, reminders, runs of jobs."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from billing.accounts.admin import AccountSearchMixin
from billing.events.admin import AuditedModelAdmin, operator_actor
from billing.events.services import Actor
from billing.plans.models import Plan, PlanPrice
from iafactory.common import clock
from iafactory.common.admin import (
    ReadOnlyAdmin,
    ReasonForm,
    ValuesFilter,
    arrow,
    change_link,
    decimal_text,
    in_order,
    link_column,
    list_url,
    moment_column,
    moment_text,
)
from iafactory.common.money import ZERO, plain

from . import changes
from .deeds import Deed, DeedsMixin
from .extending import MOST_DAYS, extendable, extension_offer, period_extend
from .models import MAILS, CouponRedemption, DunningNotice, DunningStep, JobRun, Subscription
from .price_migration import price_migrate, price_migration_preview

State = Subscription.State
PERMISSION = "billing.change_subscription"


class ChangePlanForm(ReasonForm):
    """To which plan, and when."""

    plan = forms.ModelChoiceField(label=_("Plan"), queryset=Plan.objects.exclude(visibility=Plan.Visibility.ARCHIVED))
    when = forms.ChoiceField(
        label=_("When"), choices=[("period_end", _("At the end of the period")), ("now", _("Now, with proration"))]
    )
    field_order = ("plan", "when", "reason")


def _change(subscription: Subscription, *, actor: Actor, plan: Plan, when: str, reason: str) -> None:
    changes.plan_change(subscription=subscription, plan=plan, when=when, actor=actor, reason=reason)


def change_preview(subscription: Subscription, *, plan: Plan, when: str, reason: str) -> list[tuple[Any, Any]]:
    """The quote of a change of plan, and how it is paid."""
    offer = changes.change_offer(subscription=subscription, plan=plan, when=when)
    price = f"{plain(offer.price.amount)} {offer.price.currency}" if offer.price is not None else _("free")
    told: list[tuple[Any, Any]] = [
        (_("Plan"), f"{subscription.plan} {arrow()} {plan}"),
        (_("Price of a period"), price),
        (_("Takes effect"), _("at the end of the period") if offer.at_period_end else _("now")),
    ]
    if offer.at_period_end:
        told.append((_("On"), f"{moment_text(offer.effective_at)} UTC"))
        told.append((_("To pay now"), _("nothing")))
        return told
    quote = offer.proration
    money = (
        (_("New plan, for the time left"), quote.charge),
        (_("Given back of the old plan"), quote.unused),
        (_("Difference"), quote.net),
        (_("Money in hand"), offer.balance),
    )
    told += [(label, f"{plain(amount)} {offer.currency}") for label, amount in money]
    to_pay = max(quote.net - max(offer.balance, ZERO), ZERO)
    if offer.to_balance:
        told.append((_("Comes into hand"), f"{plain(offer.to_balance)} {offer.currency}"))
    told.append((_("To pay before tax and rounding"), f"{plain(to_pay)} {offer.currency}"))
    if to_pay:
        told.append((_("Then"), _("the change waits as a draft until it is paid")))
    if offer.period_end is not None:
        told.append((_("The period then ends"), f"{moment_text(offer.period_end)} UTC"))
    if plan.period_credits:
        told.append((_("Credits of the plan, now"), decimal_text(offer.credits)))
    return told


def _forget_change(subscription: Subscription, *, actor: Actor, reason: str) -> None:
    changes.change_forget(subscription=subscription, actor=actor, reason=reason)


class ExtendForm(ReasonForm):
    """How much longer the running period is."""

    days = forms.IntegerField(
        label=_("Days"), min_value=1, max_value=MOST_DAYS, help_text=_("Added to the running period, without a payment.")
    )
    field_order = ("days", "reason")


def extension_preview(subscription: Subscription, *, days: int, reason: str) -> list[tuple[Any, Any]]:
    """What a longer period gives away."""
    offer = extension_offer(subscription=subscription, days=days)
    told = [
        (_("Plan"), str(subscription.plan)),
        (_("The period ends"), f"{in_order(moment_text(offer.ends))} {arrow()} {in_order(moment_text(offer.new_end))} UTC"),
        (_("Days given"), str(offer.days)),
        (_("Worth at the plan's price"), f"{plain(offer.worth)} {offer.currency}"),
        (_("Next charge"), _("not before the new end; an unpaid invoice for the next period is voided")),
    ]
    if offer.credits:
        told.append((_("Credits that live on"), decimal_text(offer.credits)))
    told.append((_("What we may spend on it"), _("the plan's cost allowance counts anew until the new end")))
    return told


def _extend(subscription: Subscription, *, actor: Actor, days: int, reason: str) -> None:
    period_extend(subscription=subscription, days=days, actor=actor, reason=reason)


def _cancel(subscription: Subscription, *, actor: Actor, reason: str) -> None:
    changes.subscription_cancel(subscription=subscription, actor=actor, reason=reason)


def _cancel_now(subscription: Subscription, *, actor: Actor, reason: str) -> None:
    changes.subscription_cancel(subscription=subscription, actor=actor, reason=reason, at_period_end=False)


def _pause(subscription: Subscription, *, actor: Actor, reason: str) -> None:
    changes.subscription_pause(subscription=subscription, actor=actor, reason=reason)


def _resume(subscription: Subscription, *, actor: Actor, reason: str) -> None:
    changes.subscription_resume(subscription=subscription, actor=actor, reason=reason)


DEEDS = {
    "change-plan": Deed(
        _("Change plan"),
        _("Now: what is to be paid waits as a draft until it is paid; what is given back is money in hand."),
        _("The plan is changed, scheduled, or waits for its payment."),
        _change,
        PERMISSION,
        lambda row: row.state == State.ACTIVE,
        form=ChangePlanForm,
        preview=change_preview,
    ),
    "forget-change": Deed(
        _("Take the planned change back"),
        _("What was to change at the period's end does not; its unpaid invoice is voided. The plan stays."),
        _("The plan stays."),
        _forget_change,
        PERMISSION,
        lambda row: row.next_plan_id is not None and row.state in Subscription.LIVE,
    ),
    "extend": Deed(
        _("Extend"),
        _("The running period gets longer, its credits with it. Nothing is charged, and renewals keep the new day."),
        _("The period is longer."),
        _extend,
        "billing.extend_subscription",
        lambda row: extendable(row, clock.now()),
        form=ExtendForm,
        preview=extension_preview,
    ),
    "cancel": Deed(
        _("Cancel at period end"),
        _("It runs until the end of what is paid; then the account is on the free plan."),
        _("It will end."),
        _cancel,
        PERMISSION,
        lambda row: row.state in (State.ACTIVE, State.TRIALING) and not row.cancel_at_period_end,
    ),
    "cancel-now": Deed(
        _("Cancel now"),
        _("It ends at once and nothing is given back; unpaid invoices of it are voided. The account is on the free plan."),
        _("It has ended."),
        _cancel_now,
        PERMISSION,
        lambda row: row.state in (*Subscription.LIVE, State.INCOMPLETE),
        dangerous=True,
    ),
    "pause": Deed(
        _("Pause"),
        _("Its time stops and calls are refused; the rest of the period, in time and credits, comes back with resume."),
        _("Paused."),
        _pause,
        PERMISSION,
        lambda row: row.state == State.ACTIVE and row.current_period_end is not None,
    ),
    "resume": Deed(
        _("Resume"),
        _("It goes on after its pause, or does not end at the period's end."),
        _("Resumed."),
        _resume,
        PERMISSION,
        lambda row: row.state == State.PAUSED or (row.cancel_at_period_end and row.state in Subscription.LIVE),
    ),
}


class LifecycleMixin(DeedsMixin):
    """The deeds on a subscription's page, and the page that moves running ones to another price."""

    deeds = DEEDS

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.price_migration_view)
        name = "billing_subscription_price_migration"
        return [path("price-migration/<uuid:price_id>/", view, name=name), *super().get_urls()]

    def price_migration_view(self, request: HttpRequest, price_id: Any) -> HttpResponse:
        """Who would be moved to a price, and how much that is; then, with a reason, the move."""
        if not request.user.has_perm(PERMISSION):
            raise PermissionDenied
        price = PlanPrice.objects.select_related("plan").filter(pk=price_id).first()
        if price is None:
            raise Http404
        preview = price_migration_preview(price)
        form = ReasonForm(request.POST or None)
        back = list_url("billing.planprice", plan__id__exact=price.plan_id)
        if request.method == "POST" and form.is_valid():
            moved = price_migrate(price=price, actor=operator_actor(request), reason=form.cleaned_data["reason"])
            self.message_user(
                request,
                ngettext("%d subscription renews at this price.", "%d subscriptions renew at this price.", moved) % moved,
                messages.SUCCESS,
            )
            return HttpResponseRedirect(back)
        facts = [
            ngettext(
                "%d running subscription would renew at another price.",
                "%d running subscriptions would renew at another price.",
                preview.subscriptions,
            )
            % preview.subscriptions,
            format_html(
                "{}: {} {} {} {}",
                _("Together, per period"),
                decimal_text(preview.paid_now),
                arrow(),
                decimal_text(preview.paid_then),
                price.currency,
            ),
            _("Running periods stay as they were paid."),
        ]
        named = [
            format_html("{}: {}", change_link("billing.subscription", row.pk, row.account), row.next_price or row.price)
            for row in preview.first
        ]
        return self.render_step(
            request,
            title=_("Move running subscriptions of %(plan)s to %(price)s") % {"plan": price.plan, "price": price},
            form=form,
            submit=_("Move them"),
            dangerous=True,
            items=[*facts, *named],
            back=back,
        )


@admin.register(DunningStep)
class DunningStepAdmin(AuditedModelAdmin):
    """When customers are reminded of a renewal that is not paid."""

    list_display = ("__str__", "offset_hours", "template", "is_enabled")
    list_filter = ("is_enabled",)


class MailsFilter(ValuesFilter):
    """Offers the mails that were sent by what they say."""

    def choices(self, changelist: Any) -> Any:
        for choice in super().choices(changelist):
            yield choice | {"display": MAILS.get(str(choice["display"]), choice["display"])}


@admin.register(DunningNotice)
class DunningNoticeAdmin(ReadOnlyAdmin):
    """Reminders that were sent, or passed over because a later one was due."""

    list_display = ("moment", "mail", "subscription_link", "skipped", "sent_at")
    list_filter = (("template", MailsFilter), "skipped", "created_at")
    list_select_related = ("subscription__plan",)
    fields = ("subscription_link", "invoice_link", "mail", "created_at", "sent_at", "skipped")
    readonly_fields = ("subscription_link", "invoice_link", "mail")

    moment = moment_column("created_at", _("at, UTC"))
    subscription_link = link_column("subscription", "billing.subscription", _("subscription"))

    @admin.display(description=_("invoice"))
    def invoice_link(self, notice: DunningNotice) -> SafeString:
        return change_link("billing.invoice", notice.invoice_id)

    @admin.display(description=_("mail"), ordering="template")
    def mail(self, notice: DunningNotice) -> str:
        return notice.template_name


@admin.register(CouponRedemption)
class CouponRedemptionAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """Who used which coupon."""

    list_display = ("moment", "coupon_link", "account_link", "subscription_link")
    list_filter = ("redeemed_at",)
    list_select_related = ("coupon", "account", "subscription__plan")
    fields = ("coupon_link", "account_link", "subscription_link", "redeemed_at")
    readonly_fields = ("coupon_link", "account_link", "subscription_link")

    moment = moment_column("redeemed_at", _("at, UTC"))
    coupon_link = link_column("coupon", "billing.coupon", _("coupon"))
    account_link = link_column("account", "billing.account", _("account"))
    subscription_link = link_column("subscription", "billing.subscription", _("subscription"))


@admin.register(JobRun)
class JobRunAdmin(ReadOnlyAdmin):
    """Runs of jobs over many rows, with their progress."""

    list_display = ("moment", "job", "progress", "failed", "finished_at", "last_error")
    list_filter = ("job", "started_at")
    fields = ("job", "started_at", "updated_at", "finished_at", "due", "done", "failed", "last_error")

    moment = moment_column("started_at", _("began, UTC"))

    @admin.display(description=_("progress"))
    def progress(self, run: JobRun) -> SafeString:
        return format_html(
            '<progress max="{}" value="{}"></progress> {} / {}', run.due, run.done + run.failed, run.done, run.due
        )
