"""What a refusal of the API says to a customer, in their language. Codes are the API's; its messages are for programmers."""

from typing import Any

from django.utils.translation import gettext_lazy as _

from iafactory.common.errors import ApiError

REFUSALS: dict[str, Any] = {
    "account_blocked": _("This account is blocked. Please write to support."),
    "account_closed": _("This account is closed."),
    "account_in_debt": _("A payment was taken back after its credits were spent. Buying credits settles it first."),
    "api_key_already_rotated": _("This key was replaced already: replace its successor."),
    "api_key_expired": _("This key has expired."),
    "api_key_revoked": _("This key is revoked."),
    "body_too_large": _("The file is too large."),
    "card_expired": _("The saved card has expired."),
    "catalogue_missing": _("Registration is not open yet."),
    "charge_in_progress": _("A charge of a saved card is under way. Please wait for it."),
    "coupon_not_found": _("There is no such coupon."),
    "coupon_not_valid": _("This coupon has ended, is used up, or is not for this plan or currency."),
    "email_taken": _("An account with this e-mail exists. Sign in, or reset the password."),
    "exemption_stands": _("An exemption from tax on record is ended by support."),
    "gateways_unavailable": _("No payment service answers at the moment. Nothing was charged; please try again."),
    "identifier_invalid": _("This identifier cannot be right."),
    "insufficient_credits": _("There are not enough credits."),
    "internal_error": _("Something went wrong on our side."),
    "invalid_credentials": _("The e-mail or the password is wrong."),
    "invalid_token": _("The link is damaged, used or too old."),
    "invitation_for_other": _("The invitation is for another e-mail address. Sign in with that one."),
    "invitation_not_valid": _("The invitation was withdrawn, used or is too old."),
    "invoice_move_refused": _("This invoice cannot be paid any more."),
    "invoice_paid": _("This invoice is paid."),
    "invoice_void": _("This invoice is not open."),
    "last_owner": _("An account needs at least one owner."),
    "member_exists": _("This person is a member already."),
    "no_active_plan": _("No plan is running."),
    "no_gateway": _("There is no way to pay in this currency here. Please write to support."),
    "no_saved_card": _("There is no saved card. Pay once with a card and agree to keep it."),
    "not_as_customer": _("An operator who is logged in as a customer may not do this."),
    "not_found": _("There is no such thing here."),
    "nothing_due": _("Nothing is due on this invoice."),
    "nothing_to_resume": _("There is nothing to resume."),
    "owner_required": _("Only an owner of the account may do this."),
    "pack_not_found": _("This pack is not on sale."),
    "pack_not_sold_in_currency": _("This pack is not sold in your currency."),
    "payment_not_manual": _("This payment is not made by hand."),
    "payment_not_open": _("This payment waits for nothing any more."),
    "period_already_paid": _("The next period is paid already: wait until it has begun."),
    "personal_account": _("A personal account has one member. Create a team to work with others."),
    "plan_archived": _("This plan takes no new subscriptions."),
    "plan_not_found": _("There is no such plan."),
    "plan_not_sold_in_currency": _("This plan is not sold in your currency."),
    "plan_unchanged": _("You are on this plan."),
    "price_changed": _("The price changed meanwhile. Please look at it again."),
    "proof_not_readable": _("A proof is a PNG, a JPEG or a PDF."),
    "rate_limited": _("Too many at once. Please wait a moment."),
    "region_invalid": _("There is no such state, or it is not that of the GSTIN."),
    "seller_missing": _("Nothing can be sold yet."),
    "subscription_exists": _("A plan is running: change it instead."),
    "subscription_move_refused": _("The subscription cannot change in this way."),
    "subscription_not_active": _("Only an active subscription changes its plan."),
    "subscription_not_pausable": _("This plan cannot be paused."),
    "tax_rule_missing": _("This sale cannot be taxed yet. Please write to support."),
    "tax_terms_differ": _("The two prices treat tax differently: cancel and subscribe anew."),
    "too_many_attempts": _("Too many attempts. Please wait before you try again."),
    "too_many_invitations": _("This account has enough open invitations."),
    "too_many_keys": _("This account has as many active keys as it may."),
    "too_many_proofs": _("This payment has enough proofs."),
    "too_many_webhooks": _("This account has as many endpoints as it may."),
    "webhook_delivery_pending": _("This delivery is still waiting to be sent."),
    "webhook_disabled": _("The endpoint is switched off."),
    "webhook_disabled_by_operator": _("Support switched this endpoint off; only support may switch it on."),
    "wrong_password": _("The present password is wrong."),
}


def refusal_text(error: ApiError) -> str:
    """The words for `error`; of a wrong field the API's own, which say more."""
    told = REFUSALS.get(error.code)
    return error.text if told is None else str(told)
