"""Texts with named values: English for logs, the reader's language for people."""

import json
from decimal import Decimal

import pytest
from django.utils import translation

from dashboard.alerts.models import Level
from iafactory.common.errors import ApiError, error_body
from iafactory.common.language import accepted_language
from iafactory.common.texts import Amount, Text, shipped, text_of
from iafactory.local.translations import refusals

LANGUAGES = ("en", "fr", "ar")
# Words that French has too, and figures without words.
SAME = (
    "image",
    "Pack %(name)s",
    "Service %(name)s",
    "%(failure)s: %(said)s",
    "%(outcome)s (%(count)s)",
    "%(count)s %(unit)s × %(usd)s USD%(per)s = %(cost)s USD",
)
MESSAGES = [(one.text, one.plural) for one in {one.key: one for one in refusals()[0]}.values() if one.text not in SAME]


def keys(limit: int) -> Text:
    return Text(
        "An account holds at most %(limit)s active key.", "An account holds at most %(limit)s active keys.", limit=limit
    )


@pytest.mark.parametrize(
    ("language", "limit", "said"),
    [
        ("en", 1, "An account holds at most 1 active key."),
        ("en", 50, "An account holds at most 50 active keys."),
        ("fr", 0, "Un compte a au plus 0 clé active."),
        ("fr", 1, "Un compte a au plus 1 clé active."),
        ("fr", 2, "Un compte a au plus 2 clés actives."),
        ("ar", 0, "لا يُسمح للحساب بأي مفتاح نشط (0)."),
        ("ar", 1, "للحساب مفتاح نشط واحد (1) على الأكثر."),
        ("ar", 2, "للحساب مفتاحان نشطان (2) على الأكثر."),
        ("ar", 3, "للحساب 3 مفاتيح نشطة على الأكثر."),
        ("ar", 11, "للحساب 11 مفتاحًا نشطًا على الأكثر."),
        ("ar", 100, "للحساب 100 مفتاح نشط على الأكثر."),
    ],
)
def test_the_number_decides_the_form(language: str, limit: int, said: str) -> None:
    with translation.override(language):
        assert keys(limit).translated() == said


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "This needs 12000.5 credits and 0.25 are available."),
        ("fr", "Il faut 12\u202f000,5 crédits et 0,25 sont disponibles."),
        ("ar", "يلزم 12.000,5 رصيد والمتاح 0,25."),
    ],
)
def test_numbers_are_written_as_the_language_does(language: str, said: str) -> None:
    text = Text(
        "This needs %(credits)s credits and %(available)s are available.",
        credits=Decimal("12000.5"),
        available=Decimal("0.25"),
    )

    with translation.override(language):
        assert text.translated() == said


def test_what_nobody_translated_stays_english() -> None:
    with translation.override("fr"):
        assert Text("Brand new: %(name)s", name="x").translated() == "Brand new: x"


@pytest.mark.parametrize(("name", "said"), [("Warning", "Avertissement"), ("Sara's own rule", "Sara's own rule"), ("", "")])
def test_what_was_shipped_is_translated_and_the_rest_stays(name: str, said: str) -> None:
    with translation.override("fr"):
        assert (shipped(name), Text(name).translated()) == (said, said)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_english_of_an_error_is_what_logs_and_rows_keep(language: str) -> None:
    with translation.override(language):
        error = ApiError(409, "too_many_keys", keys(50))

        assert str(error) == error.message == "An account holds at most 50 active keys."


@pytest.mark.parametrize("language", ["fr", "ar"])
@pytest.mark.parametrize(("text", "plural"), MESSAGES)
def test_every_message_is_translated_and_its_code_stays(language: str, text: str, plural: str) -> None:
    error = ApiError(409, "stable_code", text, param="name")

    with translation.override(language):
        body = error_body(error, "/api/keys", translated=True)["error"]

    assert (body["code"], body["param"]) == ("stable_code", "name")
    assert body["message"] != text
    assert error_body(error, "/api/keys")["error"]["message"] == text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/models/x"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_gateways_bodies_are_english_in_every_language(language: str, path: str) -> None:
    with translation.override(language):
        body = error_body(ApiError(409, "too_many_keys", keys(50)), path, translated=True)["error"]

    assert body["message"] == "An account holds at most 50 active keys."


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de, ja;q=0.5", "en"),
        ("*", "en"),
        ("de, *;q=0.5, fr;q=0.1", "en"),
        ("fr", "fr"),
        ("fr-DZ,fr;q=0.9,en;q=0.5", "fr"),
        ("de;q=0.9, ar-EG;q=0.8", "ar"),
        ("en-GB, fr", "en"),
        ("fr;q=0.2, ar;q=0.7", "ar"),
        ("no such; header;;q=x", "en"),
    ],
)
def test_the_best_language_that_we_speak_is_chosen(header: str, language: str) -> None:
    assert accepted_language(header) == language


# --- Kept in rows ---


def told() -> Text:
    """A text with a value of every kind."""
    return Text(
        "%(spent)s of %(limit)s USD are spent, %(reserved)s USD more are reserved for calls under way.",
        spent=Amount(Decimal("12345.500000000")),
        limit=Decimal("20000.5"),
        reserved=[Text("never"), "x", 1000],
    )


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "12,345.5 of 20000.5 USD are spent, never, x, 1000 USD more are reserved for calls under way."),
        (
            "fr",
            "12\u202f345,5 USD sur 20\u202f000,5 sont dépensés, "
            "jamais, x, 1\u202f000 USD de plus sont réservés aux appels en cours.",
        ),
        ("ar", "أُنفق 12.345,5 من أصل 20.000,5 دولار، وأبدًا، x، 1.000 دولار أخرى محجوزة لطلبات جارية."),
    ],
)
def test_a_text_that_was_kept_is_said_in_any_language(language: str, said: str) -> None:
    kept = json.loads(json.dumps(told().stored()))

    with translation.override(language):
        assert Text.restored(kept).translated() == told().translated() == said


def test_the_number_decides_the_form_of_a_text_that_was_kept() -> None:
    kept = json.loads(json.dumps([keys(1).stored(), keys(50).stored()]))

    assert [str(Text.restored(one)) for one in kept] == [str(keys(1)), str(keys(50))]


def test_a_value_that_json_would_change_is_not_kept() -> None:
    with pytest.raises(TypeError, match="float cannot be kept with a text"):
        Text("%(count)s", count=0.5).stored()


def test_a_lazy_label_is_said_in_the_language_of_its_reader() -> None:
    with translation.override("ar"):
        text = text_of(Level.WARNING.label)

    with translation.override("fr"):
        assert (str(text), text.translated()) == ("Warning", "Avertissement")
