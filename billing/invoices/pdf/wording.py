"""What documents say in each language: titles, labels, names of payment means."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Wording:
    """All fixed text of one language; names in braces are filled in."""

    right_to_left: bool
    colon: str
    invoice: str
    credit_note: str
    tax_invoice: str
    number: str
    issue_date: str
    due_date: str
    seller: str
    customer: str
    activity: str
    capital: str
    phone: str
    description: str
    quantity: str
    tax: str
    unit_price: str
    unit_price_net: str
    amount: str
    amount_net: str
    amounts_in: str
    period: str
    net: str
    tax_on: str
    total: str
    total_with_tax: str
    stamp_duty: str
    rounding: str
    payable: str
    credited: str
    balance_applied: str
    amount_paid: str
    amount_due: str
    words_invoice: str
    words_credit_note: str
    payment_means: str
    payment_date: str
    bank_details: str
    corrects: str
    place_of_supply: str
    reverse_charge: str
    yes: str
    no: str
    electronic: str
    page: str
    no_lines: str
    identifiers: Mapping[str, str] = field(hash=False)
    taxes: Mapping[str, str] = field(hash=False)
    means: Mapping[str, str] = field(hash=False)
    marks: Mapping[str, str] = field(hash=False)


# Codes that mean the same in every language.
_INDIAN = {"gstin": "GSTIN", "pan": "PAN", "lut": "LUT"}

WORDINGS: Mapping[str, Wording] = {
    "fr": Wording(
        right_to_left=False,
        colon="\u00a0: ",
        invoice="Facture",
        credit_note="Facture d’avoir",
        tax_invoice="Facture (tax invoice)",
        number="N°",
        issue_date="Date d’émission",
        due_date="Échéance",
        seller="Vendeur",
        customer="Client",
        activity="Activité",
        capital="Capital social",
        phone="Tél.",
        description="Désignation",
        quantity="Qté",
        tax="Taxe",
        unit_price="Prix unitaire",
        unit_price_net="Prix unitaire HT",
        amount="Montant",
        amount_net="Montant HT",
        amounts_in="Montants en {currency}",
        period="Du {first} au {last}",
        net="Total HT",
        tax_on="{rate} sur {base}",
        total="Total",
        total_with_tax="Total TTC",
        stamp_duty="Droit de timbre",
        rounding="Arrondi",
        payable="Net à payer",
        credited="Total de l’avoir",
        balance_applied="Imputé sur votre solde",
        amount_paid="Déjà réglé",
        amount_due="Reste à payer",
        words_invoice="Arrêtée la présente facture à la somme de :",
        words_credit_note="Arrêtée la présente facture d’avoir à la somme de :",
        payment_means="Mode de règlement",
        payment_date="Date de règlement",
        bank_details="Coordonnées bancaires",
        corrects="Avoir sur la facture {number} du {date}",
        place_of_supply="Lieu de la prestation",
        reverse_charge="Taxe due par le client (reverse charge)",
        yes="Oui",
        no="Non",
        electronic="Document établi et transmis par voie électronique.",
        page="Page {page} sur {pages}",
        no_lines="Aucune ligne",
        identifiers={"rc": "RC", "nif": "NIF", "ai": "AI", "nis": "NIS", "vat": "N° TVA", **_INDIAN},
        taxes={"TVA": "TVA"},
        means={
            "bank_transfer": "Virement bancaire",
            "balance": "Solde du compte",
            "card": "Carte bancaire",
            "cash": "Espèces",
            "ccp": "Virement CCP",
            "chargily": "Carte EDAHABIA / CIB (Chargily Pay)",
            "cheque": "Chèque",
            "cib": "Carte CIB",
            "edahabia": "Carte EDAHABIA",
            "manual": "Virement",
            "online": "Paiement en ligne",
            "paypal": "PayPal",
            "payu": "PayU",
            "razorpay": "Razorpay",
            "stripe": "Carte bancaire (Stripe)",
        },
        marks={"draft": "PROJET", "paid": "PAYÉE", "void": "FACTURE ANNULÉE", "test": "TEST — SANS VALEUR"},
    ),
    "ar": Wording(
        right_to_left=True,
        colon=": ",
        invoice="فاتورة",
        credit_note="إشعار دائن",
        tax_invoice="فاتورة ضريبية",
        number="رقم",
        issue_date="تاريخ الإصدار",
        due_date="تاريخ الاستحقاق",
        seller="البائع",
        customer="الزبون",
        activity="النشاط",
        capital="رأس المال",
        phone="الهاتف",
        description="البيان",
        quantity="الكمية",
        tax="الرسم",
        unit_price="سعر الوحدة",
        unit_price_net="سعر الوحدة خارج الرسم",
        amount="المبلغ",
        amount_net="المبلغ خارج الرسم",
        amounts_in="المبالغ بعملة {currency}",
        period="من {first} إلى {last}",
        net="المجموع خارج الرسم",
        tax_on="{rate} على {base}",
        total="المجموع",
        total_with_tax="المجموع بكل الرسوم",
        stamp_duty="حق الطابع",
        rounding="تقريب",
        payable="المبلغ الواجب دفعه",
        credited="مجموع الإشعار الدائن",
        balance_applied="مخصوم من رصيدكم",
        amount_paid="المدفوع",
        amount_due="الباقي للدفع",
        words_invoice="أوقفت هذه الفاتورة عند مبلغ:",
        words_credit_note="أوقف هذا الإشعار الدائن عند مبلغ:",
        payment_means="طريقة الدفع",
        payment_date="تاريخ الدفع",
        bank_details="البيانات البنكية",
        corrects="إشعار دائن عن الفاتورة {number} بتاريخ {date}",
        place_of_supply="مكان تقديم الخدمة",
        reverse_charge="الضريبة مستحقة على الزبون",
        yes="نعم",
        no="لا",
        electronic="وثيقة صادرة ومرسلة إلكترونيا.",
        page="صفحة {page} من {pages}",
        no_lines="لا توجد بنود",
        identifiers={
            "rc": "السجل التجاري",
            "nif": "رقم التعريف الجبائي",
            "ai": "رقم المادة الجبائية",
            "nis": "رقم التعريف الإحصائي",
            "vat": "رقم الرسم على القيمة المضافة",
            **_INDIAN,
        },
        taxes={"TVA": "الرسم على القيمة المضافة"},
        means={
            "bank_transfer": "تحويل بنكي",
            "balance": "رصيد الحساب",
            "card": "بطاقة بنكية",
            "cash": "نقدا",
            "ccp": "تحويل عبر الحساب البريدي الجاري",
            "chargily": "البطاقة الذهبية / CIB عبر Chargily Pay",
            "cheque": "شيك",
            "cib": "بطاقة CIB",
            "edahabia": "البطاقة الذهبية",
            "manual": "تحويل",
            "online": "دفع إلكتروني",
            "paypal": "PayPal",
            "payu": "PayU",
            "razorpay": "Razorpay",
            "stripe": "بطاقة بنكية عبر Stripe",
        },
        marks={"draft": "مسودة", "paid": "مدفوعة", "void": "فاتورة ملغاة", "test": "تجربة بلا قيمة"},
    ),
    "en": Wording(
        right_to_left=False,
        colon=": ",
        invoice="Invoice",
        credit_note="Credit note",
        tax_invoice="Tax invoice",
        number="No.",
        issue_date="Date of issue",
        due_date="Due date",
        seller="Seller",
        customer="Bill to",
        activity="Activity",
        capital="Share capital",
        phone="Phone",
        description="Description",
        quantity="Qty",
        tax="Tax",
        unit_price="Unit price",
        unit_price_net="Unit price excl. tax",
        amount="Amount",
        amount_net="Amount excl. tax",
        amounts_in="Amounts in {currency}",
        period="{first} to {last}",
        net="Total excl. tax",
        tax_on="{rate} on {base}",
        total="Total",
        total_with_tax="Total incl. tax",
        stamp_duty="Stamp duty",
        rounding="Round off",
        payable="Amount payable",
        credited="Total credited",
        balance_applied="From your balance",
        amount_paid="Paid",
        amount_due="Amount due",
        words_invoice="Amount in words:",
        words_credit_note="Amount in words:",
        payment_means="Payment method",
        payment_date="Payment date",
        bank_details="Bank details",
        corrects="Credit note to invoice {number} of {date}",
        place_of_supply="Place of supply",
        reverse_charge="Tax payable on reverse charge",
        yes="Yes",
        no="No",
        electronic="Issued and sent electronically; no signature is required.",
        page="Page {page} of {pages}",
        no_lines="No lines",
        identifiers={"rc": "RC", "nif": "NIF", "ai": "AI", "nis": "NIS", "vat": "VAT no.", **_INDIAN},
        taxes={"TVA": "TVA"},
        means={
            "bank_transfer": "Bank transfer",
            "balance": "Account balance",
            "card": "Card",
            "cash": "Cash",
            "ccp": "CCP transfer",
            "chargily": "EDAHABIA / CIB card (Chargily Pay)",
            "cheque": "Cheque",
            "cib": "CIB card",
            "edahabia": "EDAHABIA card",
            "manual": "Transfer",
            "online": "Online payment",
            "paypal": "PayPal",
            "payu": "PayU",
            "razorpay": "Razorpay",
            "stripe": "Card (Stripe)",
        },
        marks={"draft": "DRAFT", "paid": "PAID", "void": "VOID", "test": "TEST — NO VALUE"},
    ),
}
