"""Who sells to whom, and under which tax rules: read once, then frozen into the invoice."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

from django.db.models import Q
from django.forms.models import model_to_dict

from billing.accounts.models import Account
from iafactory.common.errors import ApiError

from .models import BillingProfile, SellerProfile, TaxRate
from .tax import TaxComponent, TaxCustomer, TaxRule, TaxRuleMissing, TaxScope, TaxSeller, tax_rule_choose

# What identifies a business to a tax office, by country.
TAX_IDENTIFIERS = ("nif", "gstin", "vat")


def seller_for(*, country: str, day: date) -> SellerProfile:
    """Who sells to customers of `country` on `day`: a seller of that country, else the default one.

    ApiError 503 `seller_missing` where no profile is valid.
    """
    valid = SellerProfile.objects.filter(Q(valid_until__isnull=True) | Q(valid_until__gt=day), valid_from__lte=day)
    newest = valid.order_by("-valid_from")
    seller = newest.filter(country=country).first() or newest.filter(is_default=True).first()
    if seller is None:
        raise ApiError(503, "seller_missing", "Nothing can be sold yet: no seller is set up.")
    return seller


def profile_of(account: Account) -> BillingProfile:
    """Whom invoices of `account` are made out to: its billing profile, or what the account itself tells. Not saved."""
    profile = BillingProfile.objects.filter(account=account).first()
    return profile or BillingProfile(
        account=account,
        name=account.name,
        country=account.country,
        email=account.billing_email,
        language=account.language,
    )


def seller_snapshot(seller: SellerProfile) -> dict[str, Any]:
    """The seller as an invoice keeps it."""
    skipped = ("id", "is_default", "valid_from", "valid_until", "created_at", "time_zone")
    return {name: value for name, value in model_to_dict(seller).items() if name not in skipped}


def customer_snapshot(profile: BillingProfile) -> dict[str, Any]:
    """The customer as an invoice keeps it."""
    values = {name: value for name, value in model_to_dict(profile).items() if name not in ("account", "updated_at")}
    return values | {"email": profile.email or profile.account.billing_email, "account_id": str(profile.account_id)}


def tax_rules() -> list[TaxRule]:
    """Every tax rule there is, as the arithmetic takes it."""
    return [tax_rule(rate) for rate in TaxRate.objects.all()]


def tax_rule(rate: TaxRate) -> TaxRule:
    """A row as the arithmetic takes it."""
    return TaxRule(
        country=rate.country,
        code=rate.code,
        scope=TaxScope(rate.scope),
        label=rate.label,
        components=tuple(
            TaxComponent(part["code"], Decimal(part["rate"]), part.get("label", part["code"])) for part in rate.components
        ),
        mention=rate.mention,
        category=rate.category,
        regions=tuple(rate.regions),
        valid_from=rate.valid_from,
        valid_until=rate.valid_until,
    )


def rule_chooser(seller: SellerProfile, profile: BillingProfile, day: date) -> Callable[[str], TaxRule]:
    """What answers the tax rule of a category for this sale; ApiError 503 `tax_rule_missing` where none covers it."""
    rules = tax_rules()
    is_business = profile.tax_status == BillingProfile.TaxStatus.BUSINESS
    tax_id = next((str(profile.identifiers[name]) for name in TAX_IDENTIFIERS if profile.identifiers.get(name)), "")
    tax_seller = TaxSeller(
        country=seller.country,
        registered=seller.tax_registered,
        region=seller.region,
        exports_untaxed=seller.exports_untaxed,
    )
    tax_customer = TaxCustomer(
        country=profile.country,
        region=profile.region,
        tax_id=tax_id if is_business else "",
        exempt=profile.tax_status == BillingProfile.TaxStatus.EXEMPT,
    )

    def rule_of(category: str) -> TaxRule:
        try:
            return tax_rule_choose(rules, seller=tax_seller, customer=tax_customer, on=day, category=category)
        except TaxRuleMissing as error:
            raise ApiError(503, "tax_rule_missing", error.told) from error

    return rule_of
