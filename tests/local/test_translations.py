"""The catalogues: complete, compiled, and a check that notices when they are not."""

from pathlib import Path

import pytest
from django.conf import settings

from iafactory.local import translations


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one marked file and French alone."""
    monkeypatch.setattr(translations, "PROJECT", tmp_path)
    monkeypatch.setattr(translations, "LANGUAGES", ("fr",))
    monkeypatch.setattr(translations, "CATALOGUES", {"locale": ("app",)})
    monkeypatch.setattr(translations, "REFUSALS", ("app",))
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "page.html").write_text('{% translate "Hello" %}')
    translations.update()
    return tmp_path


def po(folder: Path) -> Path:
    return folder / "locale" / "fr" / "LC_MESSAGES" / "django.po"


def translate(folder: Path, text: str, translation: str) -> None:
    said = po(folder).read_text().replace(f'msgid "{text}"\nmsgstr ""', f'msgid "{text}"\nmsgstr "{translation}"')
    po(folder).write_text(said)


def test_every_marked_text_of_the_product_is_translated_and_compiled() -> None:
    assert translations.problems() == []


def test_every_catalogue_is_one_that_pages_read() -> None:
    folders = [Path(folder).relative_to(translations.PROJECT).as_posix() for folder in settings.LOCALE_PATHS]

    assert folders == list(translations.CATALOGUES)


def test_templates_and_code_are_gathered_with_plurals_and_contexts(folder: Path) -> None:
    (folder / "app" / "page.html").write_text(
        """{% translate "Back" context "pages" %}{{ x|default:_("none") }}
        {% blocktranslate count calls=n %}{{ calls }} call{% plural %}{{ calls }} calls{% endblocktranslate %}"""
    )
    (folder / "app" / "code.py").write_text('_("Saved.")\nngettext("%(n)s day", "%(n)s days", n)\npgettext("key", "All")')

    (folder / "app" / "plans.toml").write_text('[[plan]]\ncode = "pro"\nname = "Pro"\n[[other]]\nname = "Not shown"')

    found = {(one.context, one.text, one.plural) for one in translations.marked_texts(("app",))}

    assert found == {
        ("pages", "Back", ""),
        ("", "none", ""),
        ("", "%(calls)s call", "%(calls)s calls"),
        ("", "Saved.", ""),
        ("", "%(n)s day", "%(n)s days"),
        ("key", "All", ""),
        ("", "Pro", ""),
    }


def test_a_missing_translation_is_named(folder: Path) -> None:
    assert translations.problems() == ["not translated: fr: 'Hello' (app/page.html)"]


def test_a_translated_and_compiled_catalogue_is_right(folder: Path) -> None:
    translate(folder, "Hello", "Bonjour")
    translations.update()

    assert translations.problems() == []


def test_a_catalogue_that_was_not_compiled_again_is_named(folder: Path) -> None:
    translate(folder, "Hello", "Bonjour")

    assert translations.problems() == ["not compiled: locale/fr/LC_MESSAGES/django.mo"]


def test_a_text_that_nobody_marks_any_more_is_outdated(folder: Path) -> None:
    (folder / "app" / "page.html").write_text('{% translate "Good evening" %}')

    assert translations.problems()[:2] == [
        "not in the catalogue: fr: 'Good evening' (app/page.html)",
        "outdated: fr: 'Hello'",
    ]


def test_a_fuzzy_translation_does_not_pass(folder: Path) -> None:
    translate(folder, "Hello", "Bonjour")
    po(folder).write_text(po(folder).read_text().replace('msgid "Hello"', '#, fuzzy\nmsgid "Hello"'))

    assert translations.problems()[0] == "fuzzy: fr: 'Hello' (app/page.html)"


def test_a_translation_that_forgets_a_name_does_not_pass(folder: Path) -> None:
    (folder / "app" / "page.html").write_text("{% blocktranslate %}Until {{ day }}{% endblocktranslate %}")
    translations.update()
    translate(folder, "Until %(day)s", "Bientôt")
    translations.update()

    assert translations.problems() == ["leaves out what the text names: fr: 'Until %(day)s' (app/page.html)"]


@pytest.fixture
def two_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same project with a second catalogue, for what administrators read."""
    monkeypatch.setattr(translations, "CATALOGUES", {"locale": ("app",), "locale/console": ("other/**/admin.py",)})
    (folder / "other" / "deep").mkdir(parents=True)
    (folder / "other" / "deep" / "admin.py").write_text('_("Hello")\n_("Ban")')
    (folder / "other" / "deep" / "views.py").write_text('_("Not gathered")')
    return folder


def test_each_catalogue_has_what_its_own_sources_mark(two_folders: Path) -> None:
    translations.update()

    second = (two_folders / "locale" / "console" / "fr" / "LC_MESSAGES" / "django.po").read_text()
    assert 'msgid "Ban"' in second
    assert "Not gathered" not in second
    assert 'msgid "Ban"' not in po(two_folders).read_text()
    assert translations.problems() == [
        "not translated: fr: 'Hello' (app/page.html)",
        "not translated: fr: 'Hello' (other/deep/admin.py)",
        "not translated: fr: 'Ban' (other/deep/admin.py)",
    ]


def test_a_new_catalogue_takes_what_another_translates(two_folders: Path) -> None:
    translate(two_folders, "Hello", "Bonjour")

    translations.update()

    assert translations.problems() == ["not translated: fr: 'Ban' (other/deep/admin.py)"]


def test_two_catalogues_say_the_same_of_one_text(two_folders: Path) -> None:
    translate(two_folders, "Hello", "Bonjour")
    translations.update()
    second = two_folders / "locale" / "console" / "fr" / "LC_MESSAGES" / "django.po"
    second.write_text(second.read_text().replace('"Bonjour"', '"Salut"').replace('"Ban"\nmsgstr ""', '"Ban"\nmsgstr "Bannir"'))
    translations.update()

    assert translations.problems() == ["translated otherwise in locale: fr: 'Hello' (locale/console)"]


def test_a_source_that_is_not_there_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translations, "CATALOGUES", {"locale": ("app", "gone")})

    with pytest.raises(FileNotFoundError, match=r"gone: no such file or folder"):
        translations.problems()


@pytest.fixture
def refusing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same project with a catalogue for what its one view refuses; what it says is translated."""
    monkeypatch.setattr(translations, "CATALOGUES", {"locale": ("app",), "locale/errors": ()})
    translate(folder, "Hello", "Bonjour")
    (folder / "app" / "views.py").write_text('raise ApiError(404, "gone", "It is gone.", param="x")')
    translations.update()
    said = folder / "locale" / "errors" / "fr" / "LC_MESSAGES" / "django.po"
    said.write_text(said.read_text().replace('msgid "It is gone."\nmsgstr ""', 'msgid "It is gone."\nmsgstr "C’est parti."'))
    translations.update()
    return folder


def test_messages_of_errors_are_gathered_from_their_calls(refusing: Path) -> None:
    assert translations.problems() == []

    (refusing / "app" / "views.py").write_text('ApiError(404, "gone", "It is gone.")\nApiError(409, "late", "Too late.")')

    assert translations.problems() == ["not in the catalogue: fr: 'Too late.' (app/views.py)"]


def test_messages_that_a_name_stands_for_are_gathered(refusing: Path) -> None:
    (refusing / "app" / "views.py").write_text(
        'told = "Of the module, which is no message."\n'
        "def other():\n"
        '    told = f"Of {another} function."\n'
        "def refuse(late):\n"
        '    told = "It is gone."\n'
        "    if late:\n"
        '        told = "Too late."\n'
        '    raise ApiError(409, "late", told)\n'
    )

    assert translations.problems() == ["not in the catalogue: fr: 'Too late.' (app/views.py)"]


def test_a_message_put_together_under_a_name_is_no_message(refusing: Path) -> None:
    (refusing / "app" / "views.py").write_text(
        'ApiError(404, "gone", "It is gone.")\n'
        "def refuse(limit):\n"
        '    told = f"Over {limit}."\n'
        '    raise ApiError(409, "over", told)\n'
    )

    assert translations.problems() == ["put together, so nobody can translate it: app/views.py:3"]


def test_texts_with_values_are_gathered_with_their_plural(refusing: Path) -> None:
    (refusing / "app" / "views.py").write_text('Text("%(n)s key", "%(n)s keys", n=5)')

    assert [(one.text, one.plural) for one in translations.refusals()[0]] == [("%(n)s key", "%(n)s keys")]


@pytest.mark.parametrize("message", ['f"Over {limit}."', '"Over " + limit', 'Text(f"Over {limit}.")'])
def test_a_message_that_is_put_together_is_no_message(refusing: Path, message: str) -> None:
    (refusing / "app" / "views.py").write_text(f'ApiError(404, "gone", "It is gone.")\nApiError(409, "over", {message})')

    assert translations.problems() == ["put together, so nobody can translate it: app/views.py:2"]


def test_names_in_braces_are_kept_too(refusing: Path) -> None:
    (refusing / "app" / "views.py").write_text('ApiError(404, "gone", "It is gone.")\n_("At least {min}")')
    translations.update()
    translate(refusing, "At least {min}", "Au moins {mini}")
    translations.update()

    assert translations.problems() == ["names what the text has not: fr: 'At least {min}' (app/views.py)"]


def test_names_that_django_makes_and_words_of_jobs_and_checks_are_gathered(folder: Path) -> None:
    (folder / "app" / "page.html").unlink()
    (folder / "app" / "models.py").write_text(
        "class LedgerEntry(models.Model):\n    balance_after = models.DecimalField()\n"
        '    at = models.DateTimeField(verbose_name=_("when"))\n'
        '    class Meta:\n        verbose_name_plural = _("ledger entries")\n'
        'class ApiKey(models.Model):\n    scopes = ArrayField(models.CharField())\n    account = models.ForeignKey("Account")\n'
        '    class Meta:\n        verbose_name = _("API key")\n'
        "class KeyForm(forms.Form):\n    name = forms.CharField()\n"
    )
    (folder / "app" / "tasks.py").write_text(
        '@shared_task(time_limit=5)\ndef seal() -> int:\n    """Seal closed\n    days.\n\n    Slow."""\n'
    )
    (folder / "app" / "verification.py").write_text('CHECKS = (Check("every hold is pinned", "SELECT 1"),)')

    found = {one.text for one in translations.marked_texts(("app",))}

    assert found == {
        "ledger entry",
        "balance after",
        "when",
        "ledger entries",
        "API key",
        "API keys",
        "scopes",
        "account",
        "Seal closed days.",
        "every hold is pinned",
    }
