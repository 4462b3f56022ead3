"""PDF of a document by Typst: own fonts only, no network, no files but ours, and the same bytes every time."""

import json
from datetime import UTC, datetime, time
from functools import cache
from pathlib import Path

import typst

from ..document import InvoiceDocument
from .layout import layout

_FOLDER = Path(__file__).parent
# For archives: fonts embedded, every character readable.
_ARCHIVABLE = "a-2u"


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
    inputs = {"page": json.dumps(layout(document), ensure_ascii=False)}
    try:
        return _bytes(_compiler().compile(_template(), sys_inputs=inputs, timestamp=at_midnight, pdf_standards=[_ARCHIVABLE]))
    except typst.TypstError as error:
        if "could not be displayed" not in f"{error.message} {error.diagnostic}":
            raise
        return _bytes(_compiler().compile(_template(), sys_inputs=inputs, timestamp=at_midnight))


def png_render(document: InvoiceDocument, *, pixels_per_inch: int = 144) -> list[bytes]:
    """The pages of `document` as pictures."""
    inputs = {"page": json.dumps(layout(document), ensure_ascii=False)}
    pages = _compiler().compile(_template(), sys_inputs=inputs, format="png", ppi=pixels_per_inch)
    return [pages] if isinstance(pages, bytes) else list(pages or [])


def _bytes(compiled: bytes | list[bytes] | None) -> bytes:
    if not isinstance(compiled, bytes):
        raise TypeError("Typst made no PDF")
    return compiled
