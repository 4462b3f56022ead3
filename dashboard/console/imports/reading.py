"""Tables out of CSV and XLSX files: cells as text, whoever made the file. Nothing in a file is run or believed."""

import csv
import hashlib
import io
import zipfile
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _
from openpyxl import load_workbook

from iafactory.common.formats import number_text

LARGEST_FILE = 2 * 1024 * 1024
# Of a spreadsheet, which is a compressed archive.
LARGEST_UNPACKED = 40 * 1024 * 1024
MOST_ROWS = 2000
MOST_COLUMNS = 60
LONGEST_CELL = 5000
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
_ZIP = b"PK\x03\x04"
# Eastern Arabic and Persian digits, and the marks between them.
_DIGITS = str.maketrans("٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹٫", "01234567890123456789.", "٬")


class FileRefused(Exception):
    """The file as a whole cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Table:
    """A file's cells as text: the columns of its first line, and for each further line its number and its cells."""

    name: str
    sha256: str
    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]

    def told(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return {"name": self.name, "sha256": self.sha256, "columns": self.columns, "rows": [list(row) for row in self.rows]}

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Table":
        return cls(told["name"], told["sha256"], told["columns"], [(number, cells) for number, cells in told["rows"]])


def table_read(data: bytes, *, name: str) -> Table:
    """Read a file. Raises FileRefused."""
    if not data:
        raise FileRefused(_("The file is empty."))
    if len(data) > LARGEST_FILE:
        raise FileRefused(_("A file has at most %s MB.") % (LARGEST_FILE // 1024 // 1024))
    lines = _spreadsheet(data) if data.startswith(_ZIP) else _comma_separated(data)
    return _table(lines, name=name[:200], sha256=hashlib.sha256(data).hexdigest())


def plain_digits(text: str) -> str:
    """`text` with the digits and marks of Arabic and Persian as ASCII has them."""
    return text.translate(_DIGITS)


def _comma_separated(data: bytes) -> list[list[str]]:
    if b"\0" in data[:4096] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileRefused(_("This is neither a CSV file nor a spreadsheet (XLSX)."))
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise FileRefused(_("The file is not UTF-8: save it as “CSV UTF-8”.")) from None
    head = text.lstrip("\r\n").partition("\n")[0]
    # Spreadsheets in French and Arabic write semicolons.
    separator = max(",;\t", key=head.count)
    try:
        rows = []
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            rows.append(row)
            if len(rows) > MOST_ROWS + 100:
                break
        return rows
    except csv.Error as error:
        raise FileRefused(_("The file is no CSV: %s") % error) from None


def _spreadsheet(data: bytes) -> list[list[str]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_UNPACKED:
                raise FileRefused(_("The spreadsheet is too large when it is unpacked."))
        # Formulas as they are written, so that they can be refused; never their remembered results.
        book = load_workbook(io.BytesIO(data), read_only=True, data_only=False, keep_links=False)
        sheet = book.worksheets[0]
        read = sheet.iter_rows(max_row=MOST_ROWS + 100, max_col=MOST_COLUMNS + 1, values_only=True)
        return [[_cell(value) for value in row] for row in read]
    except FileRefused:
        raise
    except Exception as error:
        # Whatever a made-up archive does to the reader.
        raise FileRefused(_("The spreadsheet cannot be read (%s).") % type(error).__name__) from None


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case datetime() | date():
            return value.isoformat()
        case float():
            # As the spreadsheet shows it: 0.1 and not what 0.1 is in binary.
            return f"{Decimal(repr(value)).normalize():f}"
        case _:
            return str(value)


def _table(lines: list[list[str]], *, name: str, sha256: str) -> Table:
    numbered = [(number, [cell.strip() for cell in line]) for number, line in enumerate(lines, 1)]
    filled = [(number, line) for number, line in numbered if any(line)]
    if not filled:
        raise FileRefused(_("The file is empty."))
    columns = [unescaped(cell).lower() for cell in filled[0][1]]
    while columns and not columns[-1]:
        columns.pop()
    if len(columns) > MOST_COLUMNS:
        raise FileRefused(_("A file has at most %s columns.") % MOST_COLUMNS)
    if "" in columns:
        raise FileRefused(_("A column has no name in the first line."))
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise FileRefused(_("The column %s appears twice.") % twice[0])
    rows = []
    for number, line in filled[1:]:
        if any(line[len(columns) :]):
            raise FileRefused(_("Line %s has more cells than the first line.") % number)
        if any(len(cell) > LONGEST_CELL for cell in line):
            raise FileRefused(_("A cell of line %s is too long.") % number)
        cells = dict(zip(columns, [*line, *[""] * len(columns)], strict=False))
        rows.append((number, cells))
    if not rows:
        raise FileRefused(_("The file has no lines below the first."))
    if len(rows) > MOST_ROWS:
        raise FileRefused(_("A file has at most %s lines.") % number_text(MOST_ROWS))
    return Table(name, sha256, columns, rows)


def unescaped(cell: str) -> str:
    """A cell without the mark that our own lists put before what a spreadsheet would take for a formula."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA_STARTS) else cell


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet would reckon the cell."""
    return cell.startswith("=")
