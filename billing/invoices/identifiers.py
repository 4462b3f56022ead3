"""Checks of the identifiers that invoices print: Algerian NIF, RC, AI and NIS, and the Indian GSTIN.

Algerian formats are loosely described, so their checks only catch slips of typing. Each check returns the one spelling to
store, and raises `IdentifierInvalid` with a stable code and a message for whoever typed it.
"""

import re
from collections.abc import Callable, Mapping

from iafactory.common.texts import Text

# GST state codes. 25 was merged into 26 in 2020 and 28 was Andhra Pradesh before its division: both stand on old registrations.
INDIAN_STATES: Mapping[str, str] = {
    "01": "Jammu and Kashmir",
    "02": "Himachal Pradesh",
    "03": "Punjab",
    "04": "Chandigarh",
    "05": "Uttarakhand",
    "06": "Haryana",
    "07": "Delhi",
    "08": "Rajasthan",
    "09": "Uttar Pradesh",
    "10": "Bihar",
    "11": "Sikkim",
    "12": "Arunachal Pradesh",
    "13": "Nagaland",
    "14": "Manipur",
    "15": "Mizoram",
    "16": "Tripura",
    "17": "Meghalaya",
    "18": "Assam",
    "19": "West Bengal",
    "20": "Jharkhand",
    "21": "Odisha",
    "22": "Chhattisgarh",
    "23": "Madhya Pradesh",
    "24": "Gujarat",
    "25": "Daman and Diu",
    "26": "Dadra and Nagar Haveli and Daman and Diu",
    "27": "Maharashtra",
    "28": "Andhra Pradesh (old)",
    "29": "Karnataka",
    "30": "Goa",
    "31": "Lakshadweep",
    "32": "Kerala",
    "33": "Tamil Nadu",
    "34": "Puducherry",
    "35": "Andaman and Nicobar Islands",
    "36": "Telangana",
    "37": "Andhra Pradesh",
    "38": "Ladakh",
    "97": "Other Territory",
}

_BASE_36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SEPARATORS = re.compile(r"[\s.\u00a0\u202f-]+")


class IdentifierInvalid(ValueError):
    """An identifier that cannot be right: a stable `code`, and a message that says what is wrong."""

    def __init__(self, code: str, message: Text) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def nif_check(value: str) -> str:
    """Numéro d'identification fiscale: 15 digits, or 20 with the office's suffix."""
    return _digits(value, "nif_invalid", "NIF", (15, 20))


def nis_check(value: str) -> str:
    """Numéro d'identification statistique: 15 digits, or 18 with the establishment's suffix."""
    return _digits(value, "nis_invalid", "NIS", (15, 18))


def ai_check(value: str) -> str:
    """Article d'imposition: 11 digits."""
    return _digits(value, "ai_invalid", "AI", (11,))


def rc_check(value: str) -> str:
    """Registre du commerce, spelled as `16/00-1234567 B 18`; the letter says company (B) or person (A)."""
    text = " ".join(value.upper().split())
    match = re.fullmatch(r"(\d{2}) ?/ ?(\d{2}) ?- ?(\d{7}) ?([A-Z]) ?(\d{2})", text)
    if match is None:
        raise IdentifierInvalid("rc_invalid", Text("RC: write it like 16/00-1234567 B 18."))
    wilaya, office, number, letter, year = match.groups()
    return f"{wilaya}/{office}-{number} {letter} {year}"


def gstin_check(value: str) -> str:
    """GSTIN: state code, PAN, entity, Z and a check character, in 15 capital letters and digits.

    Fails with `gstin_invalid` (shape), `gstin_state_unknown` or `gstin_check_failed` (a mistyped character).
    """
    gstin = _SEPARATORS.sub("", value).upper()
    if not re.fullmatch(r"[0-9]{2}[A-Z]{5}[0-9]{4}[A-Z][0-9A-Z]Z[0-9A-Z]", gstin):
        raise IdentifierInvalid(
            "gstin_invalid", Text("GSTIN: 15 characters are expected, two digits, a PAN, a character, Z and a check character.")
        )
    if gstin[:2] not in INDIAN_STATES:
        raise IdentifierInvalid("gstin_state_unknown", Text("GSTIN: %(digits)s is not the code of a state.", digits=gstin[:2]))
    if gstin[14] != gstin_check_character(gstin[:14]):
        raise IdentifierInvalid(
            "gstin_check_failed", Text("GSTIN: the last character does not fit; please compare every character.")
        )
    return gstin


def gstin_check_character(first_fourteen: str) -> str:
    """The 15th character: base-36 values times 1, 2, 1, 2..., quotient and remainder by 36 added up, complement to 36."""
    total = 0
    for position, character in enumerate(first_fourteen):
        product = _BASE_36.index(character) * (1 + position % 2)
        total += product // 36 + product % 36
    return _BASE_36[-total % 36]


def gstin_state(gstin: str) -> str:
    """The state code of a GSTIN."""
    return gstin[:2]


def indian_state_check(value: str) -> str:
    """A GST state code."""
    code = value.strip().zfill(2)
    if code not in INDIAN_STATES:
        raise IdentifierInvalid("state_unknown", Text("%(value)s is not the GST code of a state.", value=repr(value)))
    return code


# Identifier to its check, per country: what a seller or a customer may enter, in the order invoices print them.
IDENTIFIERS: Mapping[str, Mapping[str, Callable[[str], str]]] = {
    "DZ": {"rc": rc_check, "nif": nif_check, "ai": ai_check, "nis": nis_check},
    "IN": {"gstin": gstin_check},
}


def identifiers_check(country: str, identifiers: Mapping[str, str]) -> dict[str, str]:
    """All identifiers of a party as they are stored: checked where the country's law defines them, in printing order.

    Empty ones are left out. Others (`vat`, `siret`) are kept as they are, without surrounding blanks.
    """
    checks = IDENTIFIERS.get(country, {})
    given = {name: value.strip() for name, value in identifiers.items() if value.strip()}
    known = {name: check(given[name]) for name, check in checks.items() if name in given}
    return known | {name: value for name, value in given.items() if name not in checks}


def _digits(value: str, code: str, name: str, lengths: tuple[int, ...]) -> str:
    digits = _SEPARATORS.sub("", value)
    if not (digits.isascii() and digits.isdigit()) or len(digits) not in lengths or not digits.strip("0"):
        raise IdentifierInvalid(
            code, Text("%(name)s: %(lengths)s digits are expected.", name=name, lengths=" or ".join(map(str, lengths)))
        )
    return digits
