"""What the audit trail calls things for people: kinds of events, objects, fields and their values. The codes stay stored."""

from functools import cache
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model
from django.utils.text import capfirst
from django.utils.translation import gettext, pgettext, pgettext_lazy

# What an event's kind says before its dot, where that is no model's name.
OBJECTS = {
    "auto_renewal": pgettext_lazy("event", "automatic renewal"),
    "books": pgettext_lazy("event", "books"),
    "budget": pgettext_lazy("event", "budget"),
    "card": pgettext_lazy("event", "saved card"),
    "credit_note": pgettext_lazy("event", "credit note"),
    "credits": pgettext_lazy("event", "credits"),
    "job": pgettext_lazy("event", "job"),
    "member": pgettext_lazy("event", "member"),
    "quota": pgettext_lazy("event", "quota"),
    "table": pgettext_lazy("event", "list"),
    "two_factor": pgettext_lazy("event", "second factor"),
}
# And what it says after it.
VERBS = {
    "accepted": pgettext_lazy("event", "accepted"),
    "acknowledged": pgettext_lazy("event", "acknowledged"),
    "activated": pgettext_lazy("event", "activated"),
    "active": pgettext_lazy("event", "active"),
    "agreed": pgettext_lazy("event", "agreed to"),
    "applied": pgettext_lazy("event", "applied"),
    "approved": pgettext_lazy("event", "approved"),
    "archived": pgettext_lazy("event", "archived"),
    "asked": pgettext_lazy("event", "asked to run"),
    "asked_again": pgettext_lazy("event", "gateway asked again"),
    "assumptions_changed": pgettext_lazy("event", "assumptions changed"),
    "balance_used": pgettext_lazy("event", "money in hand used"),
    "began": pgettext_lazy("event", "began"),
    "begun": pgettext_lazy("event", "began"),
    "billing_email_changed": pgettext_lazy("event", "billing e-mail changed"),
    "blocked": pgettext_lazy("event", "blocked"),
    "breaker_closed": pgettext_lazy("event", "called again after failures"),
    "breaker_opened": pgettext_lazy("event", "left out after failures"),
    "cancel_scheduled": pgettext_lazy("event", "cancellation scheduled"),
    "cancel_taken_back": pgettext_lazy("event", "cancellation taken back"),
    "canceled": pgettext_lazy("event", "canceled"),
    "change_forgotten": pgettext_lazy("event", "scheduled change dropped"),
    "change_scheduled": pgettext_lazy("event", "change scheduled"),
    "changed": pgettext_lazy("event", "changed"),
    "checkout_began": pgettext_lazy("event", "checkout began"),
    "checkout_resumed": pgettext_lazy("event", "checkout resumed"),
    "closed": pgettext_lazy("event", "closed"),
    "created": pgettext_lazy("event", "created"),
    "credit_notice_changed": pgettext_lazy("event", "notice of low credits changed"),
    "deleted": pgettext_lazy("event", "deleted"),
    "disabled": pgettext_lazy("event", "switched off"),
    "dismissed": pgettext_lazy("event", "dismissed"),
    "drained": pgettext_lazy("event", "takes no new calls"),
    "dropped": pgettext_lazy("event", "dropped from the database"),
    "edited": pgettext_lazy("event", "edited"),
    "email_verified": pgettext_lazy("event", "e-mail verified"),
    "enabled": pgettext_lazy("event", "switched on"),
    "ended": pgettext_lazy("event", "ended"),
    "ending": pgettext_lazy("event", "ends soon"),
    "exhausted": pgettext_lazy("event", "exhausted"),
    "expired": pgettext_lazy("event", "expired"),
    "expiring": pgettext_lazy("event", "expire soon"),
    "exported": pgettext_lazy("event", "exported"),
    "extended": pgettext_lazy("event", "period extended"),
    "failed": pgettext_lazy("event", "failed"),
    "finished": pgettext_lazy("event", "finished"),
    "given_back": pgettext_lazy("event", "given back"),
    "given_up": pgettext_lazy("event", "given up as uncollectible"),
    "granted": pgettext_lazy("event", "granted"),
    "health_forgotten": pgettext_lazy("event", "health measured anew"),
    "imported": pgettext_lazy("event", "imported"),
    "issued": pgettext_lazy("event", "issued"),
    "kept_in_hand": pgettext_lazy("event", "kept in hand"),
    "limits_changed": pgettext_lazy("event", "limits changed"),
    "lost": pgettext_lazy("event", "lost"),
    "low": pgettext_lazy("event", "runs low"),
    "mail_requested": pgettext_lazy("event", "mail asked for"),
    "next_period_paid": pgettext_lazy("event", "next period paid"),
    "notice_preference_changed": pgettext_lazy("event", "choice of notices changed"),
    "opened": pgettext_lazy("event", "opened"),
    "operator_made": pgettext_lazy("event", "made an operator"),
    "paid": pgettext_lazy("event", "paid"),
    "password_changed": pgettext_lazy("event", "password changed"),
    "password_reset": pgettext_lazy("event", "password reset"),
    "password_reset_mailed": pgettext_lazy("event", "password reset mailed"),
    "password_reset_offered": pgettext_lazy("event", "password reset offered"),
    "past_due": pgettext_lazy("event", "payment overdue"),
    "paused": pgettext_lazy("event", "paused"),
    "pending": pgettext_lazy("event", "pending"),
    "plan_changed": pgettext_lazy("event", "plan changed"),
    "price_migrated": pgettext_lazy("event", "moved to another price"),
    "proof_added": pgettext_lazy("event", "proof added"),
    "received_more": pgettext_lazy("event", "received more"),
    "rechecked": pgettext_lazy("event", "checked again"),
    "recovery_code_used": pgettext_lazy("event", "recovery code used"),
    "recovery_codes_renewed": pgettext_lazy("event", "recovery codes renewed"),
    "registered": pgettext_lazy("event", "registered"),
    "rejected": pgettext_lazy("event", "rejected"),
    "removed": pgettext_lazy("event", "removed"),
    "renewed": pgettext_lazy("event", "renewed"),
    "replayed": pgettext_lazy("event", "sent again"),
    "requested": pgettext_lazy("event", "requested"),
    "reset": pgettext_lazy("event", "reset"),
    "resolved": pgettext_lazy("event", "resolved"),
    "restored": pgettext_lazy("event", "restored"),
    "resumed": pgettext_lazy("event", "resumed"),
    "review": pgettext_lazy("event", "under review"),
    "revoked": pgettext_lazy("event", "revoked"),
    "risk_accepted": pgettext_lazy("event", "risk accepted"),
    "role_changed": pgettext_lazy("event", "role changed"),
    "rotated": pgettext_lazy("event", "rotated"),
    "saved": pgettext_lazy("event", "saved"),
    "sealing_asked": pgettext_lazy("event", "sealing asked for"),
    "secret_rotated": pgettext_lazy("event", "secret rotated"),
    "set_up": pgettext_lazy("event", "set up"),
    "signed_in": pgettext_lazy("event", "signed in"),
    "started": pgettext_lazy("event", "started"),
    "stopped": pgettext_lazy("event", "stopped"),
    "subscription_changed": pgettext_lazy("event", "subscription changed"),
    "succeeded": pgettext_lazy("event", "succeeded"),
    "switched_off": pgettext_lazy("event", "switched off"),
    "switched_on": pgettext_lazy("event", "switched on"),
    "tested": pgettext_lazy("event", "tested"),
    "time_zone_changed": pgettext_lazy("event", "time zone changed"),
    "time_zone_scheduled": pgettext_lazy("event", "change of time zone scheduled"),
    "trial_started": pgettext_lazy("event", "trial started"),
    "trialing": pgettext_lazy("event", "on trial"),
    "unblocked": pgettext_lazy("event", "unblocked"),
    "undrained": pgettext_lazy("event", "takes new calls again"),
    "unknown": pgettext_lazy("event", "unclear at the gateway"),
    "unused": pgettext_lazy("event", "unused for long"),
    "verification_asked": pgettext_lazy("event", "verification asked for"),
    "voided": pgettext_lazy("event", "voided"),
    "warned": pgettext_lazy("event", "warned"),
    "withdrawn": pgettext_lazy("event", "withdrawn"),
    "won": pgettext_lazy("event", "won"),
}

# What fields are called that no model has, or that it calls by a word too short to be understood in a timeline.
FIELDS = {
    "means": pgettext_lazy("event", "paid by"),
    "missed": pgettext_lazy("event", "passed without being billed"),
}
# How money came or went, by the code that invoices and payments keep; others are codes of an operator's own.
MEANS = {
    "balance": pgettext_lazy("means", "money in hand"),
    "bank_transfer": pgettext_lazy("means", "bank transfer"),
    "card": pgettext_lazy("means", "card"),
    "cash": pgettext_lazy("means", "cash"),
    "ccp": pgettext_lazy("means", "CCP"),
    "chargily": "Chargily",
    "cheque": pgettext_lazy("means", "cheque"),
    "cib": pgettext_lazy("means", "CIB card"),
    "edahabia": pgettext_lazy("means", "EDAHABIA card"),
    "manual": pgettext_lazy("means", "by hand"),
    "online": pgettext_lazy("means", "online"),
    "paypal": "PayPal",
    "payu": "PayU",
    "razorpay": "Razorpay",
    "stripe": "Stripe",
    "upi": "UPI",
}


@cache
def _model(object_type: str) -> type[Model] | None:
    name = object_type.replace("_", "")
    return next((model for model in apps.get_models() if model._meta.model_name == name), None)


def object_label(object_type: str) -> str:
    """What an object of this type (`api_key`) is called: as its model, or the code's own words where nobody named it."""
    model = _model(object_type)
    named = OBJECTS.get(object_type) or (model._meta.verbose_name if model is not None else object_type.replace("_", " "))
    return str(named or object_type)


def kind_label(kind: str) -> str:
    """What happened, for people: `payment.succeeded` is "Payment: succeeded"."""
    object_type, _dot, verb = kind.partition(".")
    told = VERBS.get(verb) or verb.replace("_", " ")
    named = {"object": capfirst(object_label(object_type)), "told": told}
    return pgettext("event", "%(object)s: %(told)s") % named


def field_label(name: str) -> str:
    """The name of a field that changed, as forms and lists call it."""
    return str(FIELDS.get(name) or gettext(name.replace("_", " ")))


def means_label(code: str) -> str:
    """How something was paid: a gateway, or a way of paying; one of an operator's own as it is written, in their words."""
    return str(MEANS.get(code, code))


def value_label(object_type: str, name: str, value: Any) -> Any:
    """What a value is called where its field has choices; any other value as it is."""
    if name in ("means", "method") and isinstance(value, str):
        return means_label(value)
    model = _model(object_type)
    if model is None or not isinstance(value, str):
        return value
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        return value
    return str(dict(getattr(field, "flatchoices", ())).get(value, value))
