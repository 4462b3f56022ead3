"""What lines of invoices say, in the languages of invoices."""

from dataclasses import dataclass

from django.utils.translation import override

from iafactory.common.texts import shipped


@dataclass(frozen=True, slots=True)
class Wording:
    """Texts of one language; those with braces are filled with `str.format`."""

    plan: str
    plan_trial: str
    upgrade_new: str
    upgrade_unused: str
    overage: str
    topup: str
    discount: str
    rounding: str
    stamp_duty: str
    credit_note: str


_WORDINGS = {
    "fr": Wording(
        plan="Abonnement {plan}",
        plan_trial="Essai {plan}",
        upgrade_new="Abonnement {plan}, reste de la période",
        upgrade_unused="Part non utilisée de {plan}",
        overage="Consommation au-delà de {plan}",
        topup="{pack}",
        discount="Remise {coupon}",
        rounding="Arrondi",
        stamp_duty="Droit de timbre",
        credit_note="Avoir sur {line}",
    ),
    "en": Wording(
        plan="Subscription {plan}",
        plan_trial="Trial {plan}",
        upgrade_new="Subscription {plan}, rest of the period",
        upgrade_unused="Unused part of {plan}",
        overage="Use beyond {plan}",
        topup="{pack}",
        discount="Discount {coupon}",
        rounding="Rounding",
        stamp_duty="Stamp duty",
        credit_note="Credit for {line}",
    ),
    "ar": Wording(
        plan="اشتراك {plan}",
        plan_trial="تجربة {plan}",
        upgrade_new="اشتراك {plan}، باقي الفترة",
        upgrade_unused="الجزء غير المستعمل من {plan}",
        overage="استهلاك يتجاوز {plan}",
        topup="{pack}",
        discount="تخفيض {coupon}",
        rounding="تقريب",
        stamp_duty="حق الطابع",
        credit_note="إشعار دائن عن {line}",
    ),
}


def shipped_name(name: str, language: str) -> str:
    """What is sold as it is called in `language`, if it is sold as shipped; an operator's own name stays as it is."""
    with override(language):
        return shipped(name)


def words(language: str) -> Wording:
    """The texts of `language`; English for one that invoices are not written in."""
    return _WORDINGS.get(language, _WORDINGS["en"])
