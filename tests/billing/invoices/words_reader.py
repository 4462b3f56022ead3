"""Reads numbers in words back, by a way of its own: sums of word values, multiplied by scales."""

import re

FRENCH = {
    **{"zéro": 0, "un": 1, "deux": 2, "trois": 3, "quatre": 4, "cinq": 5, "six": 6, "sept": 7, "huit": 8, "neuf": 9},
    **{"dix": 10, "onze": 11, "douze": 12, "treize": 13, "quatorze": 14, "quinze": 15, "seize": 16},
    **{"vingt": 20, "vingts": 20, "trente": 30, "quarante": 40, "cinquante": 50, "soixante": 60, "et": 0, "une": 1},
}
FRENCH_SCALES = {"mille": 10**3, "million": 10**6, "millions": 10**6, "milliard": 10**9, "milliards": 10**9}

ENGLISH = {
    **{"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9},
    **{"ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16},
    **{"seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50},
    **{"sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "and": 0},
}
ENGLISH_SCALES = {"thousand": 10**3, "lakh": 10**5, "million": 10**6, "billion": 10**9}

ARABIC = {
    **{"صفر": 0, "واحد": 1, "واحدة": 1, "أحد": 1, "إحدى": 1, "اثنا": 2, "اثنتا": 2, "اثنان": 2, "اثنتان": 2},
    **{"ثلاثة": 3, "ثلاث": 3, "أربعة": 4, "أربع": 4, "خمسة": 5, "خمس": 5, "ستة": 6, "ست": 6, "سبعة": 7, "سبع": 7},
    **{"ثمانية": 8, "ثماني": 8, "ثمان": 8, "تسعة": 9, "تسع": 9, "عشرة": 10, "عشر": 10},
    **{"عشرون": 20, "ثلاثون": 30, "أربعون": 40, "خمسون": 50, "ستون": 60, "سبعون": 70, "ثمانون": 80, "تسعون": 90},
    **{"مائة": 100, "مائتان": 200, "مائتا": 200, "ثلاثمائة": 300, "أربعمائة": 400, "خمسمائة": 500, "ستمائة": 600},
    **{"سبعمائة": 700, "ثمانمائة": 800, "تسعمائة": 900},
}
ARABIC_SCALES = {
    **dict.fromkeys(("ألف", "ألفا", "آلاف"), 10**3),
    **dict.fromkeys(("مليون", "مليونا", "ملايين"), 10**6),
    **dict.fromkeys(("مليار", "مليارا", "مليارات"), 10**9),
}
ARABIC_DUALS = {
    **dict.fromkeys(("ألفان", "ألفا"), 10**3),
    **dict.fromkeys(("مليونان", "مليونا"), 10**6),
    **dict.fromkeys(("ملياران", "مليارا"), 10**9),
}
ARABIC_PAIRS = ("ديناران", "روبيتان")


def french_read(words: str) -> int:
    total = group = 0
    for word in re.split(r"[ -]", words.lower()):
        if word in FRENCH_SCALES:
            total, group = total + (group or 1) * FRENCH_SCALES[word], 0
        elif word in ("cent", "cents"):
            group = (group or 1) * 100
        elif word in ("vingt", "vingts") and group % 10 == 4 and group % 100 < 20:
            group += 76
        else:
            group += FRENCH[word]
    return total + group


def english_read(words: str) -> int:
    # What counts crores is itself a number with lakhs and thousands.
    crores, found, rest = words.rpartition(" crore")
    if found:
        return english_read(crores) * 10**7 + english_read(rest or "zero")
    total = group = 0
    for word in re.split(r"[ -]", words.strip()):
        if word in ENGLISH_SCALES:
            total, group = total + group * ENGLISH_SCALES[word], 0
        elif word == "hundred":
            group *= 100
        else:
            group += ENGLISH[word]
    return total + group


def arabic_read(words: str) -> int:
    """The whole units of an Arabic amount; the currency's own words count only where they carry a number."""
    total = group = 0
    for word in words.split():
        bare = word if word in ARABIC or word in ARABIC_SCALES else word.removeprefix("و")
        if bare in ARABIC_DUALS and not group:
            # Unvocalised, "two thousand (of)" and "eleven thousand" end alike: only a number before tells them apart.
            total += 2 * ARABIC_DUALS[bare]
        elif bare in ARABIC_SCALES:
            total, group = total + (group or 1) * ARABIC_SCALES[bare], 0
        elif bare in ARABIC_PAIRS:
            group += 2
        else:
            group += ARABIC.get(bare, 0)
    return total + group
