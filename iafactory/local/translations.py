"""Translations without GNU gettext: gathers what is marked, keeps the catalogues in `locale/`, compiles and checks them.

    python -m iafactory.local.translations update   # new texts appear empty in the catalogues' django.po
    python -m iafactory.local.translations check    # nothing missing, fuzzy, outdated or broken

`CATALOGUES` says which there are, and what is under the check of each: another part of the product comes under it by a line
there, and another catalogue by an entry there and its folder in `settings.LOCALE_PATHS`.

Arabic has six forms, in Babel's order: none, one, two, 3 to 10, those of 100 to 102, those of 11 to 99.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from django.template.base import Lexer, TokenType
from django.utils.text import camel_case_to_spaces

PROJECT = Path(__file__).resolve().parents[2]
# The texts in the code are English; these are the other languages.
LANGUAGES = ("fr", "ar")
# Each catalogue's folder, and the files, folders and patterns whose marked texts are in it. A text that several need stands in
# each of them and says the same, since the first of `settings.LOCALE_PATHS` is the one that is read.
CATALOGUES: dict[str, tuple[str, ...]] = {
    # What customers read: the panel, the site, shared pages and mails.
    "locale": (
        "dashboard/panel",
        "dashboard/site",
        "dashboard/templatetags/panel.py",
        "dashboard/templates/panel",
        "dashboard/templates/site",
        "iafactory/error_pages.py",
        "iafactory/templates",
        "billing/accounts/pages.py",
        "billing/payments/returns.py",
        "billing/templates/billing/accounts",
        "billing/templates/billing/payments",
        # What is sold as shipped: operators' own words are shown as they wrote them.
        "billing/plans/data/plans.toml",
        "billing/payments/data/selling.toml",
    ),
    # Refusals of the API, beside the messages of its `ApiError`s (`REFUSALS`): what its fields and validators say.
    "locale/errors": (
        "billing/accounts/serializers.py",
        "billing/invoices/profile_api.py",
        "billing/ledger/serializers.py",
        "billing/payments/quote_api.py",
        "billing/webhooks/serializers.py",
        "dashboard/alerts/services.py",
        "dashboard/api/serializers.py",
        "iafactory/common/language.py",
        "routing/api/operators.py",
    ),
    # What operators read: the console, its forms, fields and alerts.
    "locale/console": (
        "iafactory/settings.py",
        "iafactory/common/admin.py",
        "iafactory/common/csv_lists.py",
        "ratelimit/**/*.py",
        "*/apps.py",
        "billing/**/models.py",
        "billing/**/*admin.py",
        "billing/abuse/names.py",
        "billing/events/names.py",
        "billing/subscriptions/deeds.py",
        "billing/**/tasks.py",
        "billing/**/verification.py",
        "billing/templates/admin",
        "routing/economics.py",
        "routing/models.py",
        "routing/price_import/models.py",
        "routing/tasks.py",
        "routing/admin",
        "dashboard/alerts/models.py",
        "dashboard/alerts/admin.py",
        "dashboard/alerts/tasks.py",
        "dashboard/alerts/conditions",
        "dashboard/alerts/data/rules.toml",
        "dashboard/alerts/deliveries.py",
        "dashboard/alerts/services.py",
        "dashboard/console",
        "dashboard/impersonation",
        "dashboard/jobs",
        "dashboard/two_factor",
        "dashboard/templates/admin",
        "dashboard/templatetags/console.py",
    ),
}
# Whose `ApiError`s and `Text`s (beside refusals what a call's charge is made of) are gathered, marked or not: into which
# catalogue, and from where. The gateway's own are not among them, since it answers in English (docs/adr/0015).
ERRORS = "locale/errors"
REFUSALS = (
    "billing",
    "dashboard",
    "iafactory/common/errors.py",
    "iafactory/common/language.py",
    "iafactory/common/parsing.py",
    "iafactory/error_pages.py",
    "ratelimit",
    "routing/admin",
    "routing/api/operators.py",
    "routing/budgets.py",
    "routing/connection.py",
    "routing/credentials.py",
    "routing/economics.py",
    "routing/health/services.py",
    "routing/plan_setup.py",
    "routing/price_import",
    "routing/provider_setup.py",
)
# Of shipped data: the words that people read.
_SHIPPED_WORDS = ("name", "description", "instructions")
_SHIPPED_TABLES = ("plan", "credit_pack", "service_price", "manual_method", "rule")
_CALLS = {
    "_": ("id",),
    "gettext": ("id",),
    "gettext_lazy": ("id",),
    "gettext_noop": ("id",),
    "ngettext": ("id", "plural"),
    "ngettext_lazy": ("id", "plural"),
    "pgettext": ("context", "id"),
    "pgettext_lazy": ("context", "id"),
}
_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_TRANSLATE = re.compile(rf"trans(?:late)?\s+(?P<text>{_STRING})(?P<rest>.*)", re.S)
_CONTEXT = re.compile(rf"\bcontext\s+(?P<text>{_STRING})")
_MARKED_IN_FILTER = re.compile(rf"_\((?P<text>{_STRING})\)")
_NAMED = re.compile(r"%\((\w+)\)")
# Also the braces of DRF's own messages.
_NAMES = re.compile(r"%\(\w+\)s|\{\w+\}")


@dataclass(frozen=True, slots=True)
class Marked:
    """A text marked for translation, and where."""

    text: str
    plural: str = ""
    context: str = ""
    place: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.context, self.text


def marked_texts(sources: tuple[str, ...]) -> list[Marked]:
    """Everything marked in `sources`, which are files and folders of the project, or patterns of such (`billing/**/admin.py`).

    Raises FileNotFoundError where there is nothing of that name.
    """
    found: list[Marked] = []
    for file in _files(sources):
        place = str(file.relative_to(PROJECT))
        if file.suffix == ".py":
            found += _in_python(file.read_text(), place)
            gather = _BY_NAME.get(file.name)
            found += gather(ast.parse(file.read_text()), place) if gather is not None else []
        elif file.suffix == ".toml":
            found += _in_data(file.read_text(), place)
        elif file.suffix in (".html", ".txt"):
            found += _in_template(file.read_text(), place)
    return found


def _files(sources: tuple[str, ...]) -> Iterator[Path]:
    for source in sources:
        paths = sorted(PROJECT.glob(source))
        if not paths:
            raise FileNotFoundError(f"{source}: no such file or folder, as the catalogues' sources have it")
        for path in paths:
            yield from sorted(path.rglob("*")) if path.is_dir() else [path]


def refusals() -> tuple[list[Marked], list[str]]:
    """The messages of every `ApiError` and `Text` in `REFUSALS`; and the places of those put together, which nobody can
    translate."""
    found: list[Marked] = []
    wrong: list[str] = []
    for file in _files(REFUSALS):
        if file.suffix != ".py":
            continue
        place = str(file.relative_to(PROJECT))
        for node, named in _calls_with_names(ast.parse(file.read_text())):
            name = getattr(node.func, "id", "")
            if name not in ("ApiError", "Text", "MoneyRefusal"):
                continue
            said: list[ast.expr] = node.args[2:3] if name == "ApiError" else node.args[:2]
            if name == "ApiError" and said and isinstance(said[0], ast.Name):
                # Each of what the name was given before is a message of its own.
                for value in named.get(said[0].id, ()):
                    found += [Marked(words, place=place) for words in _words([value])]
                    if isinstance(value, ast.JoinedStr):
                        wrong.append(f"put together, so nobody can translate it: {place}:{value.lineno}")
            elif words := _words(said):
                found.append(Marked(words[0], plural=words[1] if len(words) > 1 else "", place=place))
            # A call that answers a `Text` was gathered where it was made.
            elif any(isinstance(part, (ast.JoinedStr, ast.BinOp)) for part in said):
                wrong.append(f"put together, so nobody can translate it: {place}:{node.lineno}")
    return found, wrong


def _words(said: list[ast.expr]) -> list[str]:
    return [part.value for part in said if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def _calls_with_names(module: ast.Module) -> Iterator[tuple[ast.Call, dict[str, list[ast.expr]]]]:
    """Every call, with what names were given in the function around it."""
    scopes: list[tuple[ast.AST, dict[str, list[ast.expr]]]] = [(module, {})]
    while scopes:
        node, named = scopes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            named = {}
            for part in ast.walk(node):
                if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
                    named.setdefault(part.targets[0].id, []).append(part.value)
        if isinstance(node, ast.Call):
            yield node, named
        scopes += [(child, named) for child in ast.iter_child_nodes(node)]


def _gathered(folder: str) -> list[Marked]:
    return marked_texts(CATALOGUES[folder]) + (refusals()[0] if folder == ERRORS else [])


def _in_python(code: str, place: str) -> Iterator[Marked]:
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        parts = _CALLS.get(_called(node))
        if parts is None or len(node.args) < len(parts):
            continue
        values = [arg.value if isinstance(arg, ast.Constant) and isinstance(arg.value, str) else None for arg in node.args]
        named = dict(zip(parts, values, strict=False))
        if named["id"]:
            yield Marked(named["id"], named.get("plural") or "", named.get("context") or "", place)


def _in_checks(tree: ast.AST, place: str) -> Iterator[Marked]:
    """What each check of the books says that holds: its first argument."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == "Check" and isinstance(node.args[0], ast.Constant):
            yield Marked(str(node.args[0].value), place=place)


def _in_tasks(tree: ast.AST, place: str) -> Iterator[Marked]:
    """What each task does, as the console's list of jobs says it: the first paragraph of its docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any("task" in ast.unparse(decorator) for decorator in node.decorator_list):
            text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            if text:
                yield Marked(text, place=place)


def _in_models(tree: ast.AST, place: str) -> Iterator[Marked]:
    """The names that Django makes for models and fields whose classes name none, plurals with an s, and own permissions."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        meta = next((one for one in node.body if isinstance(one, ast.ClassDef) and one.name == "Meta"), ast.Module([], []))
        said = {
            statement.targets[0].id: statement.value
            for statement in meta.body
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        }
        yield from (Marked(_named(pair.elts[1]), place=place) for pair in getattr(said.get("permissions"), "elts", ()))
        fields = {
            statement.targets[0].id: statement.value
            for statement in node.body
            if isinstance(statement, ast.Assign)
            and isinstance(statement.targets[0], ast.Name)
            and isinstance(statement.value, ast.Call)
            and _called(statement.value).endswith(("Field", "ForeignKey"))
        }
        if not any(_is_of_models(call) for call in fields.values()):
            continue
        yield from (
            Marked(name.replace("_", " "), place=place)
            for name, call in fields.items()
            if not any(keyword.arg == "verbose_name" for keyword in call.keywords)
        )
        if "abstract" in said:
            continue
        name = _named(said["verbose_name"]) if "verbose_name" in said else camel_case_to_spaces(node.name)
        if "verbose_name" not in said:
            yield Marked(name, place=place)
        if "verbose_name_plural" not in said:
            yield Marked(f"{name}s", place=place)


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _is_of_models(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "models"


def _named(value: ast.expr) -> str:
    """The text inside `_("…")`."""
    text = value.args[0] if isinstance(value, ast.Call) else value
    return str(ast.literal_eval(text))


# What files of these names say beside what is marked in them.
_BY_NAME = {"models.py": _in_models, "tasks.py": _in_tasks, "verification.py": _in_checks}


def _in_data(data: str, place: str) -> Iterator[Marked]:
    tables = tomllib.loads(data)
    for table in _SHIPPED_TABLES:
        for entry in tables.get(table, []):
            yield from (Marked(entry[word], place=place) for word in _SHIPPED_WORDS if entry.get(word))


def _in_template(template: str, place: str) -> Iterator[Marked]:
    tokens = iter(Lexer(template).tokenize())
    for token in tokens:
        if token.token_type in (TokenType.VAR, TokenType.BLOCK):
            for match in _MARKED_IN_FILTER.finditer(token.contents):
                yield Marked(ast.literal_eval(match["text"]), place=place)
        if token.token_type is not TokenType.BLOCK:
            continue
        word = token.contents.split(None, 1)[0]
        if word in ("translate", "trans"):
            found = _TRANSLATE.match(token.contents)
            if found is not None:
                context = _CONTEXT.search(found["rest"])
                yield Marked(
                    ast.literal_eval(found["text"]).replace("%", "%%"),
                    context=ast.literal_eval(context["text"]) if context else "",
                    place=place,
                )
        elif word in ("blocktranslate", "blocktrans"):
            yield _block(token.contents, tokens, place)


def _block(opening: str, tokens: Iterator[object], place: str) -> Marked:
    """The text of a `blocktranslate`, spelled as Django looks it up."""
    texts, plural = [""], False
    for token in tokens:
        contents: str = token.contents  # type: ignore[attr-defined]
        kind = token.token_type  # type: ignore[attr-defined]
        if kind is TokenType.TEXT:
            texts[-1] += contents.replace("%", "%%")
        elif kind is TokenType.VAR:
            texts[-1] += f"%({contents})s"
        elif contents.split()[0] == "plural":
            texts.append("")
            plural = True
        elif contents.startswith("end"):
            break
    if "trimmed" in opening.split():
        texts = [" ".join(line.strip() for line in text.strip().splitlines()) for text in texts]
    context = _CONTEXT.search(opening)
    return Marked(texts[0], texts[1] if plural else "", ast.literal_eval(context["text"]) if context else "", place)


def _po(folder: str, language: str) -> Path:
    return PROJECT / folder / language / "LC_MESSAGES" / "django.po"


def _read(folder: str, language: str) -> Catalog:
    path = _po(folder, language)
    if not path.exists():
        return Catalog(locale=language, project="IA Factory", charset="utf-8")
    with path.open("rb") as file:
        return read_po(file, locale=language)


def _compiled(catalog: Catalog) -> bytes:
    buffer = BytesIO()
    write_mo(buffer, catalog)
    return buffer.getvalue()


def _message(catalog: Catalog, marked: Marked) -> Message | None:
    return catalog.get((marked.text, marked.plural) if marked.plural else marked.text, marked.context or None)


def update() -> None:
    """Write each catalogue anew with what is marked now: known translations stay, unused ones go. Compiles them too.

    What another catalogue translates already is taken from there.
    """
    for language in LANGUAGES:
        known = {folder: _read(folder, language) for folder in CATALOGUES}
        for folder in CATALOGUES:
            others = [catalog for name, catalog in known.items() if name != folder]
            _write(folder, language, _gathered(folder), known=[known[folder], *others])


def _write(folder: str, language: str, marked: list[Marked], *, known: list[Catalog]) -> None:
    catalog = Catalog(
        locale=language,
        project="IA Factory",
        version="1",
        header_comment="# Texts of IA Factory; see iafactory/local/translations.py.",
        msgid_bugs_address="none",
        last_translator="IA Factory",
        language_team=language,
        charset="utf-8",
        fuzzy=False,
    )
    places: dict[tuple[str, str], list[Marked]] = {}
    for one in marked:
        places.setdefault(one.key, []).append(one)
    for _, same in sorted(places.items()):
        first = next((one for one in same if one.plural), same[0])
        catalog.add(
            (first.text, first.plural) if first.plural else first.text,
            _known_translation(first, same[0], known) or (("",) * catalog.num_plurals if first.plural else ""),
            locations=[(place, 0) for place in sorted({one.place for one in same})],
            context=first.context or None,
            flags=["python-format"] if _NAMED.search(first.text) else [],
        )
    path = _po(folder, language)
    # Dates of their own would make every update a change.
    dated = known[0].creation_date if path.exists() else catalog.creation_date
    catalog.creation_date = catalog.revision_date = dated
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_po(file, catalog, width=120, include_lineno=False, sort_output=True)
    path.with_suffix(".mo").write_bytes(_compiled(_read(folder, language)))


def _known_translation(first: Marked, same: Marked, catalogs: list[Catalog]) -> str | tuple[str, ...] | None:
    for catalog in catalogs:
        before = _message(catalog, first) or _message(catalog, same)
        if before is not None and bool(before.pluralizable) == bool(first.plural) and before.string:
            return cast("str | tuple[str, ...]", before.string)
    return None


def problems() -> list[str]:
    """What is wrong with the catalogues, a line each; empty: everything marked is translated."""
    found = refusals()[1]
    for language in LANGUAGES:
        said: dict[tuple[str, str], tuple[str, Any]] = {}
        for folder in CATALOGUES:
            marked = {one.key: one for one in _gathered(folder)}
            catalog = _read(folder, language)
            found += _problems_of_catalog(folder, language, catalog, marked)
            for message in catalog:
                key = (message.context or "", str(message.id[0] if isinstance(message.id, tuple) else message.id))
                elsewhere, other = said.setdefault(key, (folder, message.string))
                if key[1] and other != message.string:
                    found.append(f"translated otherwise in {elsewhere}: {language}: {key[1]!r} ({folder})")
    return found


def _problems_of_catalog(folder: str, language: str, catalog: Catalog, marked: dict[tuple[str, str], Marked]) -> Iterator[str]:
    for one in marked.values():
        message = _message(catalog, one)
        where = f"{language}: {one.text!r} ({one.place})"
        if message is None:
            yield f"not in the catalogue: {where}"
            continue
        strings = [message.string] if isinstance(message.string, str) else list(message.string or ("",))
        if not all(strings):
            yield f"not translated: {where}"
        elif message.fuzzy:
            yield f"fuzzy: {where}"
        elif any(set(_NAMES.findall(text)) - set(_NAMES.findall(one.text + one.plural)) for text in strings):
            yield f"names what the text has not: {where}"
        elif set(_NAMES.findall(one.plural or one.text)) - set(_NAMES.findall(strings[-1])):
            yield f"leaves out what the text names: {where}"
    for message in catalog:
        text = message.id[0] if isinstance(message.id, tuple) else message.id
        if text and (message.context or "", text) not in marked:
            yield f"outdated: {language}: {text!r}"
    compiled = _po(folder, language).with_suffix(".mo")
    if not compiled.exists() or compiled.read_bytes() != _compiled(catalog):
        yield f"not compiled: {compiled.relative_to(PROJECT)}"


def main(arguments: list[str]) -> int:
    """`update` or `check`; 1 where something is wrong."""
    if arguments == ["update"]:
        update()
    elif arguments != ["check"]:
        print(__doc__, file=sys.stderr)
        return 2
    wrong = problems()
    for line in wrong[:50]:
        print(line, file=sys.stderr)
    if wrong:
        print(f"{len(wrong)} problems; python -m iafactory.local.translations update writes what is new", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
