"""Amounts in words: grammar by example, numbers by reading every one of them back."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.invoices.amount_words import amount_in_words, english, french

from .words_reader import arabic_read, english_read, french_read

NUMBERS = st.integers(0, 10**12 - 1)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zéro"),
        (16, "seize"),
        (17, "dix-sept"),
        (21, "vingt et un"),
        (22, "vingt-deux"),
        (70, "soixante-dix"),
        (71, "soixante et onze"),
        (77, "soixante-dix-sept"),
        (80, "quatre-vingts"),
        (81, "quatre-vingt-un"),
        (91, "quatre-vingt-onze"),
        (99, "quatre-vingt-dix-neuf"),
        (100, "cent"),
        (101, "cent un"),
        (200, "deux cents"),
        (280, "deux cent quatre-vingts"),
        (1000, "mille"),
        (1999, "mille neuf cent quatre-vingt-dix-neuf"),
        (80_000, "quatre-vingt mille"),
        (200_000, "deux cent mille"),
        (80_000_000, "quatre-vingts millions"),
        (200_000_000, "deux cents millions"),
        (1_001_001, "un million mille un"),
        (2_000_000_000, "deux milliards"),
    ],
)
def test_french_numbers(number: int, words: str) -> None:
    assert french(number) == words


@pytest.mark.parametrize(
    ("number", "words", "indian"),
    [
        (0, "zero", "zero"),
        (13, "thirteen", "thirteen"),
        (40, "forty", "forty"),
        (99, "ninety-nine", "ninety-nine"),
        (101, "one hundred and one", "one hundred and one"),
        (1001, "one thousand and one", "one thousand and one"),
        (118_000, "one hundred and eighteen thousand", "one lakh eighteen thousand"),
        (1_000_000, "one million", "ten lakh"),
        (
            12_345_678,
            "twelve million three hundred and forty-five thousand six hundred and seventy-eight",
            "one crore twenty-three lakh forty-five thousand six hundred and seventy-eight",
        ),
        (10**11, "one hundred billion", "ten thousand crore"),
    ],
)
def test_english_numbers_in_both_ways_of_counting(number: int, words: str, indian: str) -> None:
    assert english(number) == words
    assert english(number, indian=True) == indian


@pytest.mark.parametrize(
    ("amount", "currency", "words"),
    [
        ("11900", "DZD", "Onze mille neuf cents dinars algériens"),
        ("11900.50", "DZD", "Onze mille neuf cents dinars algériens et cinquante centimes"),
        ("1.01", "DZD", "Un dinar algérien et un centime"),
        ("0.05", "DZD", "Zéro dinar algérien et cinq centimes"),
        ("1000000", "DZD", "Un million de dinars algériens"),
        ("2500000", "DZD", "Deux millions cinq cent mille dinars algériens"),
        ("3000000", "EUR", "Trois millions d’euros"),
        ("21", "INR", "Vingt et une roupies indiennes"),
        ("1", "INR", "Une roupie indienne"),
        ("49.00", "USD", "Quarante-neuf dollars américains"),
        ("12.500", "TND", "Douze TND et 500/1000"),
    ],
)
def test_french_amounts(amount: str, currency: str, words: str) -> None:
    assert amount_in_words(Decimal(amount), currency, "fr") == words


@pytest.mark.parametrize(
    ("amount", "currency", "words"),
    [
        ("1180.00", "INR", "Rupees one thousand one hundred and eighty only"),
        ("118000.50", "INR", "Rupees one lakh eighteen thousand and fifty paise only"),
        ("1.01", "INR", "Rupee one and one paisa only"),
        ("11900.50", "DZD", "Eleven thousand nine hundred Algerian dinars and fifty centimes"),
        ("1", "USD", "One US dollar"),
        ("100000.01", "USD", "One hundred thousand US dollars and one cent"),
        ("500", "JPY", "Five hundred JPY"),
    ],
)
def test_english_amounts(amount: str, currency: str, words: str) -> None:
    assert amount_in_words(Decimal(amount), currency, "en") == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ("0", "صفر دينار جزائري"),
        ("1", "دينار جزائري واحد"),
        ("2", "ديناران جزائريان"),
        ("3", "ثلاثة دنانير جزائرية"),
        ("10", "عشرة دنانير جزائرية"),
        ("11", "أحد عشر دينارا جزائريا"),
        ("12", "اثنا عشر دينارا جزائريا"),
        ("21", "واحد وعشرون دينارا جزائريا"),
        ("100", "مائة دينار جزائري"),
        ("101", "مائة دينار جزائري ودينار واحد"),
        ("102", "مائة دينار جزائري وديناران"),
        ("103", "مائة وثلاثة دنانير جزائرية"),
        ("200", "مائتا دينار جزائري"),
        ("213", "مائتان وثلاثة عشر دينارا جزائريا"),
        ("1000", "ألف دينار جزائري"),
        ("2000", "ألفا دينار جزائري"),
        ("2590", "ألفان وخمسمائة وتسعون دينارا جزائريا"),
        ("3000", "ثلاثة آلاف دينار جزائري"),
        ("11000", "أحد عشر ألف دينار جزائري"),
        ("11900", "أحد عشر ألفا وتسعمائة دينار جزائري"),
        ("102000", "مائة ألف وألفا دينار جزائري"),
        ("200500", "مائتا ألف وخمسمائة دينار جزائري"),
        ("1000000", "مليون دينار جزائري"),
        ("2500000", "مليونان وخمسمائة ألف دينار جزائري"),
        ("11900.50", "أحد عشر ألفا وتسعمائة دينار جزائري وخمسون سنتيما"),
        ("8.02", "ثمانية دنانير جزائرية وسنتيمان"),
    ],
)
def test_arabic_dinars(amount: str, words: str) -> None:
    assert amount_in_words(Decimal(amount), "DZD", "ar") == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ("1", "روبية هندية واحدة"),
        ("2", "روبيتان هنديتان"),
        ("8", "ثماني روبيات هندية"),
        ("11", "إحدى عشرة روبية هندية"),
        ("28", "ثمان وعشرون روبية هندية"),
        ("3000", "ثلاثة آلاف روبية هندية"),
    ],
)
def test_arabic_counts_feminine_nouns_the_other_way(amount: str, words: str) -> None:
    assert amount_in_words(Decimal(amount), "INR", "ar") == words


def test_every_english_number_to_a_hundred_thousand_reads_back() -> None:
    assert [number for number in range(100_000) if english_read(english(number)) != number] == []


def test_every_french_number_to_a_hundred_thousand_reads_back() -> None:
    assert [number for number in range(100_000) if french_read(french(number)) != number] == []


@pytest.mark.parametrize("currency", ["DZD", "INR"])
def test_every_arabic_amount_to_a_hundred_thousand_reads_back(currency: str) -> None:
    wrong = [n for n in range(100_000) if arabic_read(amount_in_words(Decimal(n), currency, "ar")) != n]

    assert wrong == []


@given(number=NUMBERS)
def test_any_large_number_reads_back(number: int) -> None:
    assert french_read(french(number)) == number
    assert english_read(english(number)) == number
    assert english_read(english(number, indian=True)) == number
    assert arabic_read(amount_in_words(Decimal(number), "DZD", "ar")) == number


@pytest.mark.parametrize(
    ("amount", "currency", "language"),
    [("-1", "DZD", "fr"), ("1.001", "DZD", "fr"), ("1000000000000", "DZD", "fr"), ("1", "DZD", "de"), ("1", "dinar", "fr")],
)
def test_what_cannot_be_put_in_words_is_refused(amount: str, currency: str, language: str) -> None:
    with pytest.raises(ValueError):
        amount_in_words(Decimal(amount), currency, language)
