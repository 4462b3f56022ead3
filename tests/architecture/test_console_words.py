"""What operators read is marked for translation, in the code and in what Django makes of it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from babel.messages.pofile import read_po
from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets, label_for_field
from django.db.models import Field
from django.forms.utils import pretty_name
from django.utils import translation

from iafactory.local.translations import CATALOGUES, PROJECT

from .product import source_files

OURS = ("billing", "dashboard", "ratelimit", "routing", "iafactory")
# Keywords and attributes whose text an operator reads.
READ = {
    "description",
    "short_description",
    "verbose_name",
    "verbose_name_plural",
    "help_text",
    "search_help_text",
    "label",
    "title",
    "subtitle",
    "submit",
    "explanation",
    "empty_label",
}
TOLD = {"message_user", "ValidationError", "success", "error", "warning", "info"}
CONSOLE = ("admin.py", "_admin.py", "models.py", "forms.py")


def test_texts_for_operators_are_marked_where_they_are_written() -> None:
    assert [found for file in console_files() for found in unmarked(file)] == []


def test_labels_of_the_console_are_translated_when_they_are_read() -> None:
    read = list(zip(labels_in("en"), labels_in("fr"), strict=True))

    assert len(read) > 1_000
    assert [f"{place}: {text}" for (place, text), (_, french) in read if text == french and not is_said_alike(text)] == []


def console_files() -> list[Path]:
    folders = ("dashboard/console", "dashboard/jobs", "dashboard/two_factor", "routing/admin")
    return [
        file
        for file in source_files("billing", "dashboard", "ratelimit", "routing")
        if str(file.relative_to(PROJECT)).startswith(folders) or file.name.endswith(CONSOLE)
        if "panel" not in file.parts and "management" not in file.parts
    ]


def unmarked(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call):
            values = [keyword.value for keyword in node.keywords if keyword.arg in READ]
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            owner = getattr(getattr(node.func, "value", None), "id", "")
            if name in ("message_user", "ValidationError") or (name in TOLD and owner == "messages"):
                values += node.args[0 if name == "ValidationError" else 1 :][:1]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in READ:
            values = [node.value]
        yield from (f"{file.relative_to(PROJECT)}:{value.lineno}" for value in values if is_text(value))


def is_text(value: ast.expr) -> bool:
    """Words written down as they are; names and numbers alone are no words."""
    if isinstance(value, ast.JoinedStr):
        return any(isinstance(part, ast.Constant) and any(map(str.isalpha, str(part.value))) for part in value.values)
    return isinstance(value, ast.Constant) and isinstance(value.value, str) and not is_name(value.value)


def is_name(text: str) -> bool:
    """Of something that is called so in every language, such as NIF; or no words at all."""
    return (text.isupper() and len(text) <= 6) or not any(map(str.isalpha, text))


def labels() -> Iterator[tuple[str, Any]]:
    """Everything that pages of the console name by themselves: columns, fields, headings, filters, actions, choices."""
    for model, model_admin in admin.site._registry.items():
        if not type(model_admin).__module__.startswith(OURS):
            continue
        place = type(model_admin).__name__
        yield from ((place, text) for text in (model_admin.search_help_text,) if text)
        if model._meta.app_label in OURS:
            yield place, model._meta.verbose_name
            yield place, model._meta.verbose_name_plural
        for name in model_admin.list_display:
            yield place, label_of(name, model_admin)
        for action in model_admin.actions or ():
            yield place, getattr(getattr(model_admin, str(action)), "short_description", action)
        for wanted in model_admin.list_filter:
            if isinstance(wanted, type):
                yield place, wanted.title
        for one in (model_admin, *(inline(model, admin.site) for inline in model_admin.inlines)):
            yield from ((place, value) for value in labels_of_form(one))


def labels_of_form(model_admin: Any) -> Iterator[Any]:
    """Of headings, fields and their choices, as the form has them and as the model has them."""
    for heading, _options in model_admin.fieldsets or ():
        yield heading or ""
    named = {*flatten_fieldsets(model_admin.fieldsets or ()), *(model_admin.fields or ()), *model_admin.readonly_fields}
    fields = model_admin.form.base_fields
    for name in sorted(name for name in named if isinstance(name, str)):
        if name not in fields:
            yield label_of(name, model_admin)
    for field_name, field in fields.items():
        yield pretty_name(field_name) if field.label is None else field.label
        yield field.help_text
    for field in model_admin.model._meta.fields:
        if isinstance(field, Field) and field.name in named and model_admin.model._meta.app_label in OURS:
            yield field.help_text
        for value, label in field.flatchoices if model_admin.model._meta.app_label in OURS else ():
            if str(value) != str(label):
                yield label


def label_of(name: Any, model_admin: Any) -> Any:
    return label_for_field(name, model_admin.model, model_admin)


def labels_in(language: str) -> list[tuple[str, str]]:
    with translation.override(language):
        return [(place, str(value or "")) for place, value in labels()]


def is_said_alike(text: str) -> bool:
    """Whether French says it just so, as somebody has looked: `Source`, `CSV`, and what has no words."""
    with translation.override("fr"):
        for said in (text, text[:1].lower() + text[1:]):
            if said in known_texts() and translation.gettext(said) == said:
                return True
    return is_name(text)


@cache
def known_texts() -> frozenset[str]:
    found: set[str] = set()
    for folder in CATALOGUES:
        with (PROJECT / folder / "fr" / "LC_MESSAGES" / "django.po").open("rb") as file:
            found |= {message.id if isinstance(message.id, str) else message.id[0] for message in read_po(file)}
    return frozenset(found)
