"""Identifiers of sellers and customers: slips of typing are caught, one spelling is kept."""

import pytest

from billing.invoices.identifiers import (
    IdentifierInvalid,
    ai_check,
    gstin_check,
    gstin_check_character,
    gstin_state,
    identifiers_check,
    indian_state_check,
    nif_check,
    nis_check,
    rc_check,
)

GSTIN = "27AAPFU0939F1ZV"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("001216209012345", "001216209012345"),
        ("00121 62090-12345", "001216209012345"),
        ("00121620901234500000", "00121620901234500000"),
    ],
)
def test_a_nif_has_15_or_20_digits(value: str, stored: str) -> None:
    assert nif_check(value) == stored


@pytest.mark.parametrize("value", ["", "12345", "0012162090123456", "00121620901234X", "000000000000000", "٠٠١٢١٦٢٠٩٠١٢٣٤٥"])
def test_a_wrong_nif_is_refused(value: str) -> None:
    with pytest.raises(IdentifierInvalid, match="NIF: 15 or 20 digits") as caught:
        nif_check(value)

    assert caught.value.code == "nif_invalid"


def test_nis_and_ai_have_lengths_of_their_own() -> None:
    assert nis_check("001216010012345") == "001216010012345"
    assert nis_check("001216010012345678") == "001216010012345678"
    assert ai_check("16 012 345 678") == "16012345678"


@pytest.mark.parametrize(("check", "value", "code"), [(nis_check, "1" * 14, "nis_invalid"), (ai_check, "1" * 12, "ai_invalid")])
def test_wrong_lengths_are_refused(check, value: str, code: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(IdentifierInvalid) as caught:
        check(value)

    assert caught.value.code == code


@pytest.mark.parametrize("value", ["16/00-1234567 B 18", "16/00-1234567b18", " 16 / 00 - 1234567  B 18 "])
def test_an_rc_is_stored_in_one_spelling(value: str) -> None:
    assert rc_check(value) == "16/00-1234567 B 18"


@pytest.mark.parametrize("value", ["16/00-123456 B 18", "1234567", "16/00-1234567 18"])
def test_a_wrong_rc_is_refused(value: str) -> None:
    with pytest.raises(IdentifierInvalid) as caught:
        rc_check(value)

    assert caught.value.code == "rc_invalid"


@pytest.mark.parametrize("value", [GSTIN, "27aapfu0939f1zv", "27 AAPFU0939F 1ZV"])
def test_a_gstin_is_checked_and_spelled_in_capitals(value: str) -> None:
    assert gstin_check(value) == GSTIN
    assert gstin_state(gstin_check(value)) == "27"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("27AAPFU0939F1Z", "gstin_invalid"),
        ("27AAPFU0939F1XV", "gstin_invalid"),
        ("AA27PFU0939F1ZV", "gstin_invalid"),
        ("99AAPFU0939F1ZV", "gstin_state_unknown"),
        ("27AAPFU0939F1ZW", "gstin_check_failed"),
        ("27AAPFU0993F1ZV", "gstin_check_failed"),
        ("29AAPFU0939F1ZV", "gstin_check_failed"),
    ],
)
def test_a_wrong_gstin_says_what_is_wrong(value: str, code: str) -> None:
    with pytest.raises(IdentifierInvalid) as caught:
        gstin_check(value)

    assert caught.value.code == code


@pytest.mark.parametrize("position", range(14))
def test_every_mistyped_character_of_a_gstin_changes_its_check(position: int) -> None:
    other = "A" if GSTIN[position] != "A" else "B"
    mistyped = GSTIN[:position] + other + GSTIN[position + 1 : 14]

    assert gstin_check_character(mistyped) != GSTIN[14]


def test_a_state_is_given_by_its_code() -> None:
    assert indian_state_check("7") == "07"

    with pytest.raises(IdentifierInvalid) as caught:
        indian_state_check("Goa")
    assert caught.value.code == "state_unknown"


def test_a_party_keeps_its_identifiers_in_printing_order() -> None:
    given = {"nis": "001216010012345", "vat": " X1 ", "rc": "16/00-1234567B18", "ai": "", "nif": "001216209012345"}

    stored = identifiers_check("DZ", given)

    assert list(stored.items()) == [
        ("rc", "16/00-1234567 B 18"),
        ("nif", "001216209012345"),
        ("nis", "001216010012345"),
        ("vat", "X1"),
    ]


def test_identifiers_of_other_countries_are_not_judged() -> None:
    assert identifiers_check("FR", {"nif": "anything"}) == {"nif": "anything"}
