"""Whom an account's invoices are made out to: checked, kept, and copied into every invoice from then on."""

from typing import Any

from django.db import transaction

from billing.accounts.models import Account
from billing.events.services import Actor, event_record
from iafactory.common.errors import ApiError

from .identifiers import IdentifierInvalid, gstin_state, identifiers_check, indian_state_check
from .models import BillingProfile
from .parties import profile_of

# Only operators say that a customer is exempt: it takes a document.
CUSTOMER_TAX_STATUSES = (BillingProfile.TaxStatus.CONSUMER, BillingProfile.TaxStatus.BUSINESS)


def billing_profile_set(*, account: Account, actor: Actor, **changes: Any) -> BillingProfile:
    """Change the named fields of an account's billing profile; issued invoices keep what they say.

    ApiError 400 `identifier_invalid` (which one and why in `details`), `region_invalid`; 409 `exemption_stands` when a customer
    would end or claim an exemption.
    """
    with transaction.atomic():
        account = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        profile = profile_of(account)
        before = {name: getattr(profile, name) for name in changes}
        if "tax_status" in changes and profile.tax_status == BillingProfile.TaxStatus.EXEMPT != changes["tax_status"]:
            raise ApiError(409, "exemption_stands", "The exemption on record is ended by an operator.", param="tax_status")
        for name, value in changes.items():
            setattr(profile, name, value)
        _check(profile)
        profile.save()
        after = {name: getattr(profile, name) for name in changes}
        changed = [name for name in changes if before[name] != after[name]]
        if changed:
            event_record(
                kind="billing_profile.changed",
                object_type="billing_profile",
                object_id=account.pk,
                account_id=account.pk,
                actor=actor,
                before={name: before[name] for name in changed},
                after={name: after[name] for name in changed},
            )
    return profile


def _check(profile: BillingProfile) -> None:
    """Identifiers and state by the rules of the profile's country; kept in one spelling."""
    identifiers: dict[str, str] = {}
    for name, value in profile.identifiers.items():
        try:
            identifiers |= identifiers_check(profile.country, {name: value})
        except IdentifierInvalid as error:
            raise ApiError(
                400,
                "identifier_invalid",
                error.message,
                param=f"identifiers.{name}",
                extra={"identifier": name, "reason": error.code},
            ) from None
    profile.identifiers = identifiers
    if profile.country != "IN":
        return
    gstin = identifiers.get("gstin", "")
    if profile.region:
        try:
            profile.region = indian_state_check(profile.region)
        except IdentifierInvalid as error:
            raise ApiError(400, "region_invalid", error.message, param="region") from None
        if gstin and gstin_state(gstin) != profile.region:
            raise ApiError(400, "region_invalid", "The GSTIN is of another state.", param="region")
    elif gstin:
        profile.region = gstin_state(gstin)
