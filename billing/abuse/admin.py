"""Abuse in the console: signals with what can be done about them, and networks that are kept out."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account
from billing.events.admin import operator_actor
from billing.events.services import Actor
from iafactory.common import clock
from iafactory.common.admin import (
    EMPTY,
    ConsoleAdmin,
    ReadOnlyAdmin,
    ReasonForm,
    change_link,
    list_link,
    list_url,
    moment_column,
    table,
    viewer_may,
)
from iafactory.common.client_address import parse_address, request_client_address
from iafactory.common.errors import ApiError
from iafactory.common.formats import number_text
from iafactory.common.ids import uuid_or_none
from ratelimit.blocks import BlockedNetwork, BlockList, network_normalise
from ratelimit.models import AbuseSignal, NetworkBlock

from . import services
from .names import SIGNALS, figure_label
from .selectors import accounts_of_subjects

# More addresses than these have more owners than one: an entry that large asks to be confirmed.
_WIDE_BITS = {4: 16, 6: 32}
_MOST_AT_ONCE = 100


def subject_link(subject: str) -> SafeString:
    """A link to what a signal is about."""
    kind, _colon, identifier = subject.partition(":")
    pk = uuid_or_none(identifier)
    if kind == "account" and pk is not None:
        return change_link("billing.account", pk, subject)
    if kind == "key" and pk is not None:
        return change_link("billing.apikey", pk, subject)
    if kind == "address":
        return format_html('<a href="{}">{}</a>', list_url("ratelimit.networkblock", q=identifier), subject)
    return format_html("{}", subject)


class FutureForm(ReasonForm):
    """A reason, and an end that lies in the future."""

    until = forms.SplitDateTimeField(
        label=_("Until"), required=False, widget=AdminSplitDateTime, help_text=_("UTC. Empty: until an operator ends it.")
    )
    field_order: tuple[str, ...] = ("reason", "until")

    def clean_until(self) -> Any:
        until = self.cleaned_data["until"]
        if until is not None and until <= clock.now():
            raise forms.ValidationError(_("The end must lie in the future."))
        return until


class WarnForm(ReasonForm):
    """What the customer reads, and why it is sent."""

    message = forms.CharField(
        label=_("Message"),
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 5, "class": "vLargeTextField"}),
        help_text=_("Mailed to the account's owners, in the frame of our warning."),
    )
    field_order = ("message", "reason")


class SlowDownForm(FutureForm):
    """Limits in the place of the plan's; at least one."""

    requests_per_minute = forms.IntegerField(label=_("Requests per minute"), min_value=0, required=False)
    requests_per_hour = forms.IntegerField(label=_("Requests per hour"), min_value=0, required=False)
    requests_per_day = forms.IntegerField(label=_("Requests per day"), min_value=0, required=False)
    tokens_per_minute = forms.IntegerField(label=_("Tokens per minute"), min_value=0, required=False)
    concurrent_calls = forms.IntegerField(label=_("Calls at the same time"), min_value=0, required=False)
    field_order = ("requests_per_minute", "requests_per_hour", "requests_per_day", "tokens_per_minute", "concurrent_calls")


@dataclass(frozen=True, slots=True)
class Deed:
    """What an operator may do about signals: its form, its words, and the service it calls for each account."""

    label: Any
    explanation: Any
    done: Any
    form: type[ReasonForm]
    act: Callable[..., Any]
    permission: str = "ratelimit.change_abusesignal"
    dangerous: bool = False


DEEDS = {
    "warn": Deed(
        _("Warn"),
        _("The owners of these accounts get a mail. Nothing else changes."),
        _("Warned."),
        WarnForm,
        services.account_warn,
    ),
    "slow-down": Deed(
        _("Slow down"),
        _("These limits stand in the place of the plan's, within a second. They can be edited under Account limits."),
        _("Slowed down."),
        SlowDownForm,
        services.account_slow_down,
        permission="billing.change_account",
    ),
    "ban": Deed(
        _("Ban"),
        _("All keys of these accounts stop within a second, streams under way are cut. Credits and subscriptions stay."),
        _("Banned."),
        FutureForm,
        services.account_ban,
        permission="billing.change_account",
        dangerous=True,
    ),
    "dismiss": Deed(
        _("Dismiss"),
        _("These signals are closed as no abuse, and stay quiet until the end of what they are about."),
        _("Dismissed."),
        ReasonForm,
        services.signals_dismiss,
    ),
}


class SignalFilter(admin.SimpleListFilter):
    """What was seen, by its name."""

    title = _("signal")
    parameter_name = "signal"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return sorted(((code, str(name)) for code, name in SIGNALS.items()), key=lambda choice: choice[1])

    def queryset(self, request: HttpRequest, queryset: QuerySet[AbuseSignal]) -> QuerySet[AbuseSignal]:
        return queryset.filter(signal=self.value()) if self.value() else queryset


@admin.register(AbuseSignal)
class AbuseSignalAdmin(ReadOnlyAdmin):
    """What looks like abuse, open signals first, and what to do about it."""

    list_display = ("last_seen", "signal_name", "subject_column", "evidence_line", "first_seen", "state_label")
    list_filter = ("state", "last_seen_at", SignalFilter)
    # The states in reverse alphabetical order: open, dismissed, acted on.
    ordering = ("-state", "-last_seen_at")
    search_fields = ("subject", "signal")
    search_uuid_fields: tuple[str, ...] = ()
    search_help_text = _("Account or key id, address, kind of signal.")
    actions = ("warn_selected", "slow_down_selected", "ban_selected", "dismiss_selected")
    fieldsets = (
        (None, {"fields": ("signal_name", "subject_column", "account_column", "state_label", "deeds")}),
        (_("Evidence"), {"fields": ("evidence_table", "first_seen_at", "last_seen_at", "until")}),
        (_("Decision"), {"fields": ("closed_at", "closed_reason")}),
    )
    readonly_fields = ("signal_name", "subject_column", "account_column", "state_label", "deeds", "evidence_table")

    last_seen = moment_column("last_seen_at", _("last seen, UTC"))
    first_seen = moment_column("first_seen_at", _("first seen, UTC"))

    @admin.display(description=_("signal"), ordering="signal")
    def signal_name(self, signal: AbuseSignal) -> str:
        return signal.name

    @admin.display(description=_("subject"), ordering="subject")
    def subject_column(self, signal: AbuseSignal) -> SafeString:
        return subject_link(signal.subject)

    @admin.display(description=_("account"))
    def account_column(self, signal: AbuseSignal) -> SafeString:
        account_id = services.account_id_of_subject(signal.subject)
        account = Account.objects.filter(pk=account_id).first() if account_id else None
        if account is None:
            return SafeString(EMPTY)
        return format_html(
            "{} ({}) · {} · {}",
            change_link("billing.account", account.pk, account),
            account.get_status_display(),
            list_link("billing.usagerecord", _("usage"), account__id__exact=account.pk),
            list_link("billing.event", _("timeline"), account_id__exact=account.pk),
        )

    @admin.display(description=_("evidence"))
    def evidence_line(self, signal: AbuseSignal) -> str:
        figures = (f"{figure_label(name)} {value}" for name, value in signal.evidence.items() if not isinstance(value, list))
        return ", ".join(figures)

    @admin.display(description=_("evidence"))
    def evidence_table(self, signal: AbuseSignal) -> SafeString:
        def cell(name: str, value: Any) -> Any:
            if name == "accounts" and isinstance(value, list):
                return format_html_join(", ", "{}", ((change_link("billing.account", pk),) for pk in value))
            return ", ".join(map(str, value)) if isinstance(value, list) else value

        rows = [(figure_label(name), cell(name, value)) for name, value in signal.evidence.items()]
        return table((_("figure"), _("value")), rows)

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, signal: AbuseSignal) -> SafeString:
        return format_html('<span class="state state-{}">{}</span>', signal.state, signal.get_state_display())

    @admin.display(description=_("what to do"))
    def deeds(self, signal: AbuseSignal) -> SafeString:
        if signal.state != AbuseSignal.State.OPEN:
            return SafeString(EMPTY)
        links = [
            (act_url(name, [signal.pk]), deed.label)
            for name, deed in DEEDS.items()
            if (name == "dismiss" or not is_address(signal))
            and viewer_may(signal, "ratelimit.change_abusesignal")
            and viewer_may(signal, deed.permission)
        ]
        if is_address(signal) and viewer_may(signal, "ratelimit.add_networkblock"):
            address = reverse("admin:ratelimit_networkblock_add")
            network = signal.subject.partition(":")[2]
            links.append((f"{address}?network={network}&reason=many+accounts", _("Block the network")))
        return format_html_join(" · ", '<a href="{}">{}…</a>', links) if links else SafeString(EMPTY)

    # --- Deeds ---

    def has_act_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("ratelimit.change_abusesignal")

    def has_ban_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_act_permission(request) and request.user.has_perm("billing.change_account")

    @admin.action(description=_("Warn the accounts of the selected signals…"), permissions=["act"])
    def warn_selected(self, request: HttpRequest, queryset: QuerySet[AbuseSignal]) -> HttpResponse:
        return self._to_step("warn", queryset)

    @admin.action(description=_("Slow down the accounts of the selected signals…"), permissions=["ban"])
    def slow_down_selected(self, request: HttpRequest, queryset: QuerySet[AbuseSignal]) -> HttpResponse:
        return self._to_step("slow-down", queryset)

    @admin.action(description=_("Ban the accounts of the selected signals…"), permissions=["ban"])
    def ban_selected(self, request: HttpRequest, queryset: QuerySet[AbuseSignal]) -> HttpResponse:
        return self._to_step("ban", queryset)

    @admin.action(description=_("Dismiss the selected signals…"), permissions=["act"])
    def dismiss_selected(self, request: HttpRequest, queryset: QuerySet[AbuseSignal]) -> HttpResponse:
        return self._to_step("dismiss", queryset)

    def _to_step(self, name: str, queryset: QuerySet[AbuseSignal]) -> HttpResponse:
        return HttpResponseRedirect(act_url(name, list(queryset.values_list("pk", flat=True)[:_MOST_AT_ONCE])))

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.act_view)
        return [path("act/<str:name>/", view, name="ratelimit_abusesignal_act"), *super().get_urls()]

    def act_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Ask why, and how far, then do it for every account of the signals named in `?signals=`."""
        deed = DEEDS.get(name)
        if deed is None or not self.has_act_permission(request) or not request.user.has_perm(deed.permission):
            raise PermissionDenied
        wanted = [found for text in request.GET.get("signals", "").split(",") if (found := uuid_or_none(text))]
        signals = list(AbuseSignal.objects.filter(pk__in=wanted[:_MOST_AT_ONCE], state=AbuseSignal.State.OPEN))
        account_of = accounts_of_subjects([signal.subject for signal in signals])
        accounts = list(Account.objects.filter(pk__in=set(account_of.values())).order_by("name", "id"))
        if not (signals if name == "dismiss" else accounts):
            self.message_user(request, _("There is nothing open to act on."), messages.WARNING)
            return HttpResponseRedirect(list_url("ratelimit.abusesignal"))
        form = deed.form(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                with transaction.atomic():
                    self._act(request, deed, signals, accounts, form.cleaned_data)
            except ApiError as error:
                form.add_error(error.param if error.param in form.fields else None, error.text)
            else:
                self.message_user(request, deed.done, messages.SUCCESS)
                return HttpResponseRedirect(list_url("ratelimit.abusesignal"))
        about = [format_html("{}: {}", signal.name, self.evidence_line(signal)) for signal in signals]
        return self.render_step(
            request,
            title=deed.label,
            form=form,
            submit=deed.label,
            dangerous=deed.dangerous,
            explanation=deed.explanation,
            items=[*(change_link("billing.account", account.pk, account) for account in accounts), *about],
            back=list_url("ratelimit.abusesignal"),
        )

    def _act(
        self, request: HttpRequest, deed: Deed, signals: list[AbuseSignal], accounts: list[Account], wanted: dict[str, Any]
    ) -> None:
        actor = operator_actor(request)
        if deed.act is services.signals_dismiss:
            deed.act(signals=signals, actor=actor, **wanted)
        else:
            for account in accounts:
                deed.act(account=account, actor=actor, **wanted)
        for signal in signals:
            self.log_change(request, signal, f"{deed.done} {wanted['reason']}")


def is_address(signal: AbuseSignal) -> bool:
    return signal.subject.startswith("address:")


def act_url(name: str, signals: list[UUID]) -> str:
    """The page that asks before `name` is done about `signals`."""
    return f"{reverse('admin:ratelimit_abusesignal_act', args=[name])}?signals={','.join(map(str, signals))}"


class NetworkBlockForm(forms.ModelForm):  # type: ignore[type-arg]
    """A network to keep out. What could shut out everybody, or the operator, has to be confirmed."""

    confirmed = forms.BooleanField(
        label=_("I mean it"), required=False, help_text=_("Needed for large networks, and for one that holds your own address.")
    )
    # The address of the operator who fills it in.
    own_address = ""

    class Meta:
        model = NetworkBlock
        fields = ("network", "reason", "expires_at")

    def clean_network(self) -> str:
        try:
            return network_normalise(self.cleaned_data["network"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None

    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= clock.now() and "expires_at" in self.changed_data:
            raise forms.ValidationError(_("The end must lie in the future."))
        return expires_at

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or self.cleaned_data
        network = wanted.get("network")
        if network is None or wanted.get("confirmed"):
            return wanted
        parsed = ipaddress.ip_network(network)
        own = parse_address(self.own_address)
        if own is not None and BlockList([BlockedNetwork(network, "", None)]).blocked(str(own), clock.now()):
            self.add_error("confirmed", _("Your own address, %s, lies in this network: you would be shut out yourself.") % own)
        elif parsed.prefixlen < _WIDE_BITS[parsed.version]:
            self.add_error(
                "confirmed",
                _("%(network)s are %(count)s addresses.") % {"network": parsed, "count": number_text(parsed.num_addresses)},
            )
        return wanted


@admin.register(NetworkBlock)
class NetworkBlockAdmin(ConsoleAdmin):
    """Networks that get no answer but a refusal, on every path, the console included."""

    form = NetworkBlockForm
    list_display = ("network", "reason", "in_force", "created_at", "expires_at", "created_by")
    list_filter = ("created_at", "expires_at")
    search_fields = ("network", "reason")
    search_help_text = _("Network or reason.")
    fieldsets = ((None, {"fields": ("network", "reason", "expires_at", "confirmed")}),)
    actions: Any = None

    @admin.display(description=_("in force"), boolean=True)
    def in_force(self, block: NetworkBlock) -> bool:
        return block.expires_at is None or block.expires_at > clock.now()

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        return type(form.__name__, (form,), {"own_address": request_client_address(request.META)})

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("network",) if obj is not None else ()

    def save_model(self, request: HttpRequest, obj: NetworkBlock, form: Any, change: bool) -> None:
        row = services.network_ban(
            network=obj.network, actor=self._actor(request), reason=obj.reason, expires_at=obj.expires_at
        )
        # The rest of the admin works on the form's own object.
        obj.__dict__.update(row.__dict__)

    def delete_model(self, request: HttpRequest, obj: NetworkBlock) -> None:
        services.network_unban(block=obj, actor=self._actor(request))

    def _actor(self, request: HttpRequest) -> Actor:
        return operator_actor(request)
