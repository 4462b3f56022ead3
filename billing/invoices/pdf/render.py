"""PDF of a document by Typst: own fonts only, no network, no files but ours, and the same bytes every time."""

import json
from datetime import UTC, datetime, time
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import typst

from ..document import InvoiceDocument
from .layout import layout

_FOLDER = Path(__file__).parent
# For archives: fonts embedded, every character readable.
_ARCHIVABLE = "a-2u"
# A compiler serves one thread at a time.
_LOCK = Lock()


@cache
def _compiler() -> typst.Compiler:
    """One per process: it keeps the fonts and what it has parsed."""
    fonts = typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=[str(_FOLDER / "fonts")])
    return typst.Compiler(root=str(_FOLDER), font_paths=fonts)


@cache
def _template() -> bytes:
    return (_FOLDER / "invoice.typ").read_bytes()


def pdf_render(document: InvoiceDocument) -> bytes:
    """The PDF of `document`, the same bytes whenever it is rendered by the same release.

    Text reaches Typst as data and is never read as markup. A PDF/A-2u, unless a text has characters that the shipped fonts
    lack (they print as boxes): then a plain PDF.
    """
    at_midnight = datetime.combine(document.issue_date, time(), UTC)
    try:
        return _compile(document, timestamp=at_midnight, pdf_standards=[_ARCHIVABLE])[0]
    except typst.TypstError as error:
        if "could not be displayed" not in f"{error.message} {error.diagnostic}":
            raise
        return _compile(document, timestamp=at_midnight)[0]


def png_render(document: InvoiceDocument, *, pixels_per_inch: int = 144) -> list[bytes]:
    """The pages of `document` as pictures."""
    return _compile(document, format="png", ppi=pixels_per_inch)


def _compile(document: InvoiceDocument, **options: Any) -> list[bytes]:
    """A PDF, or a picture per page."""
    inputs = {"page": json.dumps(layout(document), ensure_ascii=False)}
    with _LOCK:
        made = _compiler().compile(_template(), sys_inputs=inputs, **options)
    return [made] if isinstance(made, bytes) else list(made or [])
