"""What customers agree to when they allow automatic renewals, and what the page of an open invoice says: three languages."""

from dataclasses import dataclass

# The text below. Another text is another version: consents keep which one was read.
CONSENT_VERSION = "2026-11-20"
# Earlier versions stay here, so that what somebody agreed to can always be shown.
CONSENTS: dict[str, dict[str, str]] = {
    CONSENT_VERSION: {
        "en": (
            "I agree that my card is kept at the payment service and charged with the price of my plan when it renews, without "
            "asking me again, until I take this back. I get the invoice by e-mail before each charge and can switch automatic "
            "renewal off, or remove the card, at any time."
        ),
        "fr": (
            "J'accepte que ma carte soit conservée par le service de paiement et débitée du prix de ma formule à chaque "
            "renouvellement, sans nouvelle demande, jusqu'à ce que je retire cet accord. Je reçois la facture par e-mail avant "
            "chaque débit et je peux à tout moment désactiver le renouvellement automatique ou retirer la carte."
        ),
        "ar": (
            "أوافق على أن تحفظ خدمة الدفع بطاقتي وأن يُخصم منها ثمن اشتراكي عند كل تجديد دون سؤالي من جديد، إلى أن أسحب هذه "
            "الموافقة. تصلني الفاتورة بالبريد الإلكتروني قبل كل خصم، ويمكنني في أي وقت إيقاف التجديد التلقائي أو حذف البطاقة."
        ),
    }
}


def consent_text(language: str) -> tuple[str, str]:
    """The language and the text of the present consent; English for a language we do not speak."""
    language = language if language in CONSENTS[CONSENT_VERSION] else "en"
    return language, CONSENTS[CONSENT_VERSION][language]


@dataclass(frozen=True, slots=True)
class InvoicePageWording:
    """Texts of the page that a mailed pay link opens; those with braces are filled with `str.format`."""

    title: str
    due: str
    pay: str
    paid: str
    closed: str
    expired_title: str
    expired: str
    by_hand_title: str
    by_hand: str
    failed: str
    charging: str


_PAGES = {
    "en": InvoicePageWording(
        title="Invoice {number}",
        due="To be paid",
        pay="Pay now",
        paid="This invoice is paid. Thank you.",
        closed="Nothing is to be paid on this invoice any more.",
        expired_title="This link does not work any more",
        expired="It is damaged or too old. Log in to pay, or wait for our next e-mail: it brings a new one.",
        by_hand_title="How to pay",
        by_hand="Give this reference with your payment: {reference}",
        failed="No payment service answers at the moment; nothing was charged. Please try again in a few minutes.",
        charging="Your saved card is being charged for this invoice. Please come back in half an hour.",
    ),
    "fr": InvoicePageWording(
        title="Facture {number}",
        due="À régler",
        pay="Payer maintenant",
        paid="Cette facture est réglée. Merci.",
        closed="Il n'y a plus rien à régler sur cette facture.",
        expired_title="Ce lien ne fonctionne plus",
        expired=(
            "Il est endommagé ou trop ancien. Connectez-vous pour payer, ou attendez notre prochain e-mail : il en contient un "
            "nouveau."
        ),
        by_hand_title="Comment payer",
        by_hand="Indiquez cette référence avec votre paiement : {reference}",
        failed=(
            "Aucun service de paiement ne répond pour le moment ; rien n'a été débité. Merci de réessayer dans quelques "
            "minutes."
        ),
        charging="Votre carte enregistrée est en cours de débit pour cette facture. Merci de revenir dans une demi-heure.",
    ),
    "ar": InvoicePageWording(
        title="الفاتورة {number}",
        due="المبلغ المستحق",
        pay="ادفع الآن",
        paid="هذه الفاتورة مدفوعة. شكرا لكم.",
        closed="لم يبق شيء للدفع في هذه الفاتورة.",
        expired_title="لم يعد هذا الرابط صالحا",
        expired="الرابط معطوب أو قديم جدا. سجّلوا الدخول للدفع، أو انتظروا رسالتنا القادمة: فيها رابط جديد.",
        by_hand_title="طريقة الدفع",
        by_hand="اذكروا هذا المرجع مع الدفع: {reference}",
        failed="لا تجيب أي خدمة دفع في هذه اللحظة، ولم يُخصم شيء. يرجى المحاولة بعد دقائق.",
        charging="يجري الآن الخصم من بطاقتكم المحفوظة لهذه الفاتورة. يرجى العودة بعد نصف ساعة.",
    ),
}


def invoice_page_wording(language: str) -> InvoicePageWording:
    """The page's texts; English for a language we do not speak."""
    return _PAGES.get(language, _PAGES["en"])
