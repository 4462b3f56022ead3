"""Amounts in words, as laws ask for them on invoices: French, Arabic, English (with lakh and crore for rupees).

The words agree with what they count: "un million de dinars", "quatre-vingts" but "quatre-vingt mille", "twelve lakh", and in
Arabic gender, number and case of the noun. Numbers up to 999,999,999,999.
"""

from dataclasses import dataclass
from decimal import Decimal

from .rounding import is_quantised, minor_digits

LIMIT = 10**12


def amount_in_words(amount: Decimal, currency: str, language: str) -> str:
    """`amount` of an ISO currency in the words of `language` (fr, ar, en), beginning with a capital where there are any.

    Currencies without a name of their own here keep their code. ValueError when the amount is negative, finer than the
    minor unit, or too large, or when the language is another.
    """
    if amount < 0 or amount >= LIMIT or not is_quantised(amount, currency):
        raise ValueError(f"{amount} {currency} cannot be put in words")
    whole = int(amount)
    minor = int((amount - whole).scaleb(minor_digits(currency)))
    match language:
        case "fr":
            words = _french_amount(whole, minor, currency)
        case "en":
            words = _english_amount(whole, minor, currency)
        case "ar":
            words = _arabic_amount(whole, minor, currency)
        case _:
            raise ValueError(f"no words in the language {language!r}")
    return words[0].upper() + words[1:]


def _in_parts(minor: int, currency: str) -> str:
    """The minor units of a currency without a name: 50/100."""
    digits = minor_digits(currency)
    return f"{minor:0{digits}}/{10**digits}"


# --- French ---

_FRENCH = (
    *("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze", "treize"),
    *("quatorze", "quinze", "seize", "dix-sept", "dix-huit", "dix-neuf"),
)
_FRENCH_TENS = ("", "", "vingt", "trente", "quarante", "cinquante", "soixante", "soixante", "quatre-vingt", "quatre-vingt")
_FRENCH_SCALES = ((10**9, "milliard"), (10**6, "million"))
# Currency: singular, plural, whether feminine; the same of its minor unit.
_FRENCH_CURRENCIES = {
    "DZD": ("dinar algérien", "dinars algériens", False, "centime", "centimes", False),
    "EUR": ("euro", "euros", False, "centime", "centimes", False),
    "INR": ("roupie indienne", "roupies indiennes", True, "paisa", "paise", False),
    "USD": ("dollar américain", "dollars américains", False, "cent", "cents", False),
}


def _french_amount(whole: int, minor: int, currency: str) -> str:
    if currency not in _FRENCH_CURRENCIES:
        return f"{french(whole)} {currency}" + (f" et {_in_parts(minor, currency)}" if minor else "")
    singular, plural, feminine, minor_singular, minor_plural, minor_feminine = _FRENCH_CURRENCIES[currency]
    words = _french_counted(whole, singular, plural, feminine)
    if minor:
        words += f" et {_french_counted(minor, minor_singular, minor_plural, minor_feminine)}"
    return words


def _french_counted(number: int, singular: str, plural: str, feminine: bool) -> str:
    words = french(number)
    if feminine and words.endswith("un"):
        words += "e"
    if number and number % 10**6 == 0:
        words += " d’" if plural[0] in "aeiou" else " de"
        return words + plural if words.endswith("’") else f"{words} {plural}"
    return f"{words} {plural if number >= 2 else singular}"


def french(number: int) -> str:
    """A cardinal number in French: 80 quatre-vingts, 80 000 quatre-vingt mille, 200 000 000 deux cents millions."""
    parts = []
    for scale, name in _FRENCH_SCALES:
        count, number = divmod(number, scale)
        if count:
            parts.append(f"{_french_below_thousand(count, final=True)} {name}{'s' if count > 1 else ''}")
    thousands, rest = divmod(number, 1000)
    if thousands:
        parts.append("mille" if thousands == 1 else f"{_french_below_thousand(thousands, final=False)} mille")
    if rest or not parts:
        parts.append(_french_below_thousand(rest, final=True))
    return " ".join(parts)


def _french_below_thousand(number: int, *, final: bool) -> str:
    """0 to 999; `final`: no other numeral follows, so that vingt and cent take their plural (millions are nouns)."""
    hundreds, rest = divmod(number, 100)
    parts = []
    if hundreds:
        plural = "s" if final and hundreds > 1 and not rest else ""
        parts.append("cent" if hundreds == 1 else f"{_FRENCH[hundreds]} cent{plural}")
    if rest or not hundreds:
        parts.append(_french_below_hundred(rest, final=final))
    return " ".join(parts)


def _french_below_hundred(number: int, *, final: bool) -> str:
    if number < 20:
        return _FRENCH[number]
    tens, units = divmod(number, 10)
    if tens in (7, 9):
        units += 10
    word = _FRENCH_TENS[tens]
    if not units:
        return f"{word}s" if final and tens == 8 else word
    if units in (1, 11) and tens < 8:
        return f"{word} et {_FRENCH[units]}"
    return f"{word}-{_FRENCH[units]}"


# --- English ---

_ENGLISH = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_ENGLISH_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SHORT_SCALES = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"))
_INDIAN_SCALES = ((10**7, "crore"), (10**5, "lakh"), (10**3, "thousand"))
_ENGLISH_CURRENCIES = {
    "DZD": ("Algerian dinar", "Algerian dinars", "centime", "centimes"),
    "EUR": ("euro", "euros", "cent", "cents"),
    "USD": ("US dollar", "US dollars", "cent", "cents"),
}


def _english_amount(whole: int, minor: int, currency: str) -> str:
    if currency == "INR":
        # The order of Indian invoices and cheques.
        rupees = f"{'rupee' if whole == 1 else 'rupees'} {english(whole, indian=True)}"
        return rupees + (f" and {english(minor)} {'paisa' if minor == 1 else 'paise'}" if minor else "") + " only"
    if currency not in _ENGLISH_CURRENCIES:
        return f"{english(whole)} {currency}" + (f" and {_in_parts(minor, currency)}" if minor else "")
    singular, plural, minor_singular, minor_plural = _ENGLISH_CURRENCIES[currency]
    words = f"{english(whole)} {singular if whole == 1 else plural}"
    return words + (f" and {english(minor)} {minor_singular if minor == 1 else minor_plural}" if minor else "")


def english(number: int, *, indian: bool = False) -> str:
    """A cardinal number in English; `indian` counts in lakh (100,000) and crore (10,000,000)."""
    parts = []
    rest = number
    for scale, name in _INDIAN_SCALES if indian else _SHORT_SCALES:
        count, rest = divmod(rest, scale)
        if count:
            parts.append(f"{english(count, indian=indian)} {name}")
    hundreds, below = divmod(rest, 100)
    if hundreds:
        parts.append(f"{_ENGLISH[hundreds]} hundred")
    if below or not parts:
        tens, units = divmod(below, 10)
        small = _ENGLISH[below] if below < 20 else _ENGLISH_TENS[tens] + (f"-{_ENGLISH[units]}" if units else "")
        parts.append(f"and {small}" if parts else small)
    return " ".join(parts)


# --- Arabic ---


@dataclass(frozen=True, slots=True)
class _Noun:
    """A counted noun in the forms that numbers ask for.

    `plural` after 3 to 10, `accusative` after 11 to 99 (`accusative_construct` when another noun follows), `genitive` after
    hundreds and thousands, `one` and `dual` in their place; `one_more`, `two_more` behind a larger number.
    """

    genitive: str
    accusative: str
    plural: str
    one: str
    dual: str
    one_more: str
    two_more: str
    accusative_construct: str = ""
    dual_construct: str = ""
    feminine: bool = False


_ARABIC_SCALES = (
    (10**9, _Noun("مليار", "مليارا", "مليارات", "مليار", "ملياران", "مليار", "ملياران", "مليار", "مليارا")),
    (10**6, _Noun("مليون", "مليونا", "ملايين", "مليون", "مليونان", "مليون", "مليونان", "مليون", "مليونا")),
    (10**3, _Noun("ألف", "ألفا", "آلاف", "ألف", "ألفان", "ألف", "ألفان", "ألف", "ألفا")),
)
_CENT = _Noun("سنت", "سنتا", "سنتات", "سنت واحد", "سنتان", "سنت واحد", "سنتان")
_ARABIC_CURRENCIES = {
    "DZD": (
        _Noun(
            *("دينار جزائري", "دينارا جزائريا", "دنانير جزائرية", "دينار جزائري واحد", "ديناران جزائريان"),
            *("دينار واحد", "ديناران"),
        ),
        _Noun("سنتيم", "سنتيما", "سنتيمات", "سنتيم واحد", "سنتيمان", "سنتيم واحد", "سنتيمان"),
    ),
    "EUR": (_Noun("يورو", "يورو", "يورو", "يورو واحد", "اثنان يورو", "يورو واحد", "اثنان يورو"), _CENT),
    "INR": (
        _Noun(
            *("روبية هندية", "روبية هندية", "روبيات هندية", "روبية هندية واحدة", "روبيتان هنديتان", "روبية واحدة", "روبيتان"),
            feminine=True,
        ),
        _Noun("بيسة", "بيسة", "بيسات", "بيسة واحدة", "بيستان", "بيسة واحدة", "بيستان", feminine=True),
    ),
    "USD": (
        _Noun(
            *("دولار أمريكي", "دولارا أمريكيا", "دولارات أمريكية", "دولار أمريكي واحد", "دولاران أمريكيان"),
            *("دولار واحد", "دولاران"),
        ),
        _CENT,
    ),
}
# Counting masculine nouns; feminine ones take the forms without their ending.
_ARABIC_MASCULINE = ("", "", "", "ثلاثة", "أربعة", "خمسة", "ستة", "سبعة", "ثمانية", "تسعة", "عشرة")
_ARABIC_FEMININE = ("", "", "", "ثلاث", "أربع", "خمس", "ست", "سبع", "ثماني", "تسع", "عشر")
_ARABIC_TENS = ("", "", "عشرون", "ثلاثون", "أربعون", "خمسون", "ستون", "سبعون", "ثمانون", "تسعون")
_ARABIC_HUNDREDS = (*("", "مائة", "مائتان", "ثلاثمائة", "أربعمائة", "خمسمائة", "ستمائة", "سبعمائة", "ثمانمائة", "تسعمائة"),)
_AND = " و"


def _arabic_amount(whole: int, minor: int, currency: str) -> str:
    if currency not in _ARABIC_CURRENCIES:
        one, two = f"واحد {currency}", f"اثنان {currency}"
        uncounted = _Noun(currency, currency, currency, one, two, one, two)
        return arabic(whole, uncounted) + (f"{_AND}{_in_parts(minor, currency)}" if minor else "")
    noun, minor_noun = _ARABIC_CURRENCIES[currency]
    return arabic(whole, noun) + (f"{_AND}{arabic(minor, minor_noun)}" if minor else "")


def arabic(number: int, noun: _Noun) -> str:
    """`number` of `noun` in Arabic, nominative: the last part of the number decides the form of the noun."""
    if number == 0:
        return f"صفر {noun.genitive}"
    below_hundred = number % 100
    if below_hundred in (1, 2):
        if number == below_hundred:
            return noun.one if number == 1 else noun.dual
        # A thousand dinars and a dinar: one and two are never written as numerals before what they count.
        more = noun.one_more if below_hundred == 1 else noun.two_more
        return f"{arabic(number - below_hundred, noun)}{_AND}{more}"
    groups = [(number // scale % 1000, scale_noun) for scale, scale_noun in _ARABIC_SCALES]
    groups = [(count, scale_noun) for count, scale_noun in groups if count]
    units = number % 1000
    if units:
        parts = [_arabic_group(count, scale_noun, construct=False) for count, scale_noun in groups]
        return _AND.join([*parts, _arabic_group(units, noun, construct=False)])
    parts = [
        _arabic_group(count, scale_noun, construct=position == len(groups) - 1)
        for position, (count, scale_noun) in enumerate(groups)
    ]
    return f"{_AND.join(parts)} {noun.genitive}"


def _arabic_group(number: int, noun: _Noun, *, construct: bool) -> str:
    """1 to 999 of `noun`; `construct`: the counted thing follows at once, so dual and accusative lose their ending."""
    hundreds, rest = divmod(number, 100)
    if rest == 0:
        return f"{'مائتا' if hundreds == 2 else _ARABIC_HUNDREDS[hundreds]} {noun.genitive}"
    if rest in (1, 2):
        tail = noun.one if rest == 1 else (noun.dual_construct if construct else noun.dual)
        return f"{_arabic_group(number - rest, noun, construct=False)}{_AND}{tail}" if hundreds else tail
    parts = [_ARABIC_HUNDREDS[hundreds]] if hundreds else []
    if rest <= 10:
        parts.append(f"{(_ARABIC_FEMININE if noun.feminine else _ARABIC_MASCULINE)[rest]} {noun.plural}")
    else:
        accusative = noun.accusative_construct if construct else noun.accusative
        parts.append(f"{_arabic_teens_and_tens(rest, feminine=noun.feminine)} {accusative}")
    return _AND.join(parts)


def _arabic_teens_and_tens(number: int, *, feminine: bool) -> str:
    tens, units = divmod(number, 10)
    if tens == 1:
        ten = "عشرة" if feminine else "عشر"
        first = ("إحدى", "اثنتا") if feminine else ("أحد", "اثنا")
        counted = _ARABIC_FEMININE if feminine else _ARABIC_MASCULINE
        return f"{first[units - 1] if units < 3 else counted[units]} {ten}"
    if not units:
        return _ARABIC_TENS[tens]
    if units < 3:
        word = (("إحدى", "اثنتان") if feminine else ("واحد", "اثنان"))[units - 1]
    else:
        # Before "and" the eight of feminine nouns loses its last letter.
        word = "ثمان" if feminine and units == 8 else (_ARABIC_FEMININE if feminine else _ARABIC_MASCULINE)[units]
    return f"{word}{_AND}{_ARABIC_TENS[tens]}"
