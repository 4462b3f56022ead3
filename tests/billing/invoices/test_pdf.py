"""PDFs: the text that anyone can copy out of them, their bytes, and that text never becomes markup."""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import pypdfium2
import pytest

from billing.invoices.document import DocumentKind, DocumentLine, DocumentMark, InvoiceDocument, Party
from billing.invoices.pdf.layout import layout
from billing.invoices.pdf.render import pdf_render, png_render

from .documents import BENALI, arabic, english, french

BIDI_MARKS = "[\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069]"


def pages(pdf: bytes) -> list[str]:
    """The text of each page: without direction marks, blanks of all kinds as one."""
    document = pypdfium2.PdfDocument(pdf)
    texts = [page.get_textpage().get_text_range() for page in document]
    return [re.sub(r"\s+", " ", re.sub(BIDI_MARKS, "", text)) for text in texts]


def text_of(document: InvoiceDocument) -> str:
    return " ".join(pages(pdf_render(document)))


def missing(document: InvoiceDocument, *wanted: str) -> list[str]:
    text = text_of(document)
    return [part for part in wanted if part not in text]


def test_the_french_invoice_has_all_its_particulars() -> None:
    assert (
        missing(
            french(),
            *("Facture", "N° 2026-000123", "Date d’émission 20/11/2026"),
            *("IA Factory Algérie", "SARL", "12, rue Didouche Mourad", "16000 Alger", "Capital social : 5 000 000,00 DA"),
            *("RC : 16/00-1234567 B 18", "NIF : 001216209012345", "AI : 16012345678", "NIS : 001216010012345"),
            *("Cabinet Benali & Fils", "RC : 16/00-7654321 B 15", "NIF : 000916001122334"),
            *("Mode de règlement Espèces", "Date de règlement 20/11/2026"),
            *("Désignation Qté Prix unitaire HT Taxe Montant HT", "Abonnement Pro Du 20/11/2026 au 19/12/2026"),
            *("1 12 500,00 19 % 12 500,00", "1,5 4 000,00 9 % 6 000,00", "−1 250,00"),
            *("Total HT 17 250,00", "TVA 19 % sur 11 250,00 2 137,50", "TVA 9 % sur 6 000,00 540,00"),
            *("Total TTC 19 927,50", "Droit de timbre 200,00", "Net à payer 20 127,50 DA"),
            "Arrêtée la présente facture à la somme de : Vingt mille cent vingt-sept dinars algériens et cinquante centimes",
            "Page 1 sur 1",
        )
        == []
    )


def test_the_indian_invoice_has_all_its_particulars() -> None:
    assert (
        missing(
            english(),
            *("Tax invoice", "IAF/26-27/000042", "GSTIN: 27AAPFU0939F1ZV", "Maharashtra (27)", "998315"),
            *("Place of supply Maharashtra (27)", "Tax payable on reverse charge No", "Due date 5 Dec 2026"),
            *("CGST 9% on 99,999.73 8,999.98", "SGST 9% on 99,999.73 8,999.98", "Round off 0.31"),
            *("Amount payable ₹1,18,000.00", "Rupees one lakh eighteen thousand only"),
        )
        == []
    )


def test_the_arabic_invoice_reads_right_once_direction_marks_are_gone() -> None:
    assert (
        missing(
            arabic(),
            *("فاتورة", "رقم 2026-000123", "تاريخ الإصدار 20/11/2026", "الزبون", "شركة النور للاستشارات"),
            *("السجل التجاري", "16/00-1234567", "رقم التعريف الجبائي: 001216209012345", "رقم التعريف الإحصائي"),
            *("طريقة الدفع البطاقة الذهبية", "من 20/11/2026 إلى 19/12/2026", "12 500,00"),
            *("المجموع خارج الرسم 17 250,00", "الرسم على القيمة المضافة 19 % على 11 250,00 2 137,50"),
            *("المجموع بكل الرسوم", "19 927,50", "مدفوعة", "الدفع عند الاستلام.", "وثيقة صادرة ومرسلة إلكترونيا."),
            "تسعة عشر ألفا وتسعمائة وسبعة وعشرون دينارا جزائريا وخمسون سنتيما",
            "صفحة 1 من 1",
        )
        == []
    )


def test_the_arabic_page_is_laid_out_from_the_right() -> None:
    page = pypdfium2.PdfDocument(pdf_render(arabic()))[0]
    texts = page.get_textpage()

    places = [texts.search(word).get_next()[0] for word in ("فاتورة", "Factory", "12\u202f500,00", "اشتراك")]
    title, seller, amount, description = (texts.get_charbox(place)[0] for place in places)

    # The seller and the descriptions stand right, the title and the amounts left.
    assert title < 120 < 300 < seller
    assert amount < 300 < 450 < description


def test_numbers_keep_their_order_on_the_arabic_page() -> None:
    page = pypdfium2.PdfDocument(pdf_render(arabic()))[0]
    texts = page.get_textpage()
    start = texts.search("2026-000123").get_next()[0]

    edges = [texts.get_charbox(start + offset)[0] for offset in range(len("2026-000123"))]

    assert edges == sorted(edges)


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not installed")
def test_pdftotext_reads_whole_arabic_words(tmp_path: Path) -> None:
    path = tmp_path / "invoice.pdf"
    path.write_bytes(pdf_render(arabic()))

    read = subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True).stdout

    words = set(re.findall(r"[\w/-]+", re.sub(BIDI_MARKS, " ", read)))
    # Letters that join, ligatures of lam, and what kerning would tear apart.
    wanted = {"التعريف", "طريقة", "الإصدار", "إلى", "إلكترونيا", "ألفا", "دينارا", "الرسوم", "2026-000123", "19/12/2026"}
    assert wanted - words == set()


def test_threads_render_side_by_side() -> None:
    documents = [french(number=f"2026-{number:06}") for number in range(40)]

    with ThreadPoolExecutor(8) as threads:
        rendered = list(threads.map(pdf_render, documents))

    assert rendered == [pdf_render(document) for document in documents]


@pytest.mark.parametrize("document", [french(), arabic(), english()], ids=["fr", "ar", "en"])
def test_rendering_twice_gives_the_same_bytes(document: InvoiceDocument) -> None:
    first = pdf_render(document)
    pdf_render(replace(document, number="another"))

    assert pdf_render(document) == first


@pytest.mark.parametrize("document", [french(), arabic(), english()], ids=["fr", "ar", "en"])
def test_fonts_are_embedded_and_the_file_is_made_for_archives(document: InvoiceDocument) -> None:
    pdf = pdf_render(document)

    assert b"<pdfaid:part>2</pdfaid:part>" in pdf
    assert pypdfium2.PdfDocument(pdf).get_metadata_value("CreationDate").startswith("D:20261120000000")


@pytest.mark.parametrize(
    "text",
    [
        '#panic("x")',
        "#read(\"/etc/passwd\")",
        "*bold* _it_ $x^2$ `raw` <label> @ref [c] #{1+1} \\ // comment /* x */",
        "= Heading",
        "- item + item",
        '"); #set page(fill: red) ("',
        "~ -- --- ... 'q' \"q\"",
    ],
)  # fmt: skip
def test_text_is_data_and_never_markup(text: str) -> None:
    document = french(
        customer=replace(BENALI, name=text, address=text, activity=text),
        lines=(DocumentLine(text, Decimal(1), Decimal("17250.00"), Decimal("17250.00")),),
        mentions=(text,),
        bank_details=text,
    )

    printed = text_of(document)

    assert printed.count(" ".join(text.split())) == 6


def test_a_name_cannot_turn_the_page_around() -> None:
    document = french(customer=replace(BENALI, name="\u202eevil\u2067 name"))

    assert "Client evil name SPA" in text_of(document)


def test_characters_without_a_glyph_do_not_stop_an_invoice() -> None:
    document = french(customer=replace(BENALI, name="北京 🚀 SARL"))

    pdf = pdf_render(document)

    assert "SARL" in pages(pdf)[0]
    assert pdf_render(document) == pdf


def test_devanagari_names_are_printed() -> None:
    assert missing(english(customer=Party(name="कावेरी", country="IN")), "India") == []
    assert b"<pdfaid:part>" in pdf_render(english(customer=Party(name="कावेरी", country="IN")))


def test_a_long_table_repeats_its_head_and_keeps_every_line() -> None:
    lines = tuple(DocumentLine(f"Ligne {n:03}", Decimal(1), Decimal("1.00"), Decimal("1.00")) for n in range(1, 201))
    document = french(lines=lines, net=Decimal("200.00"), taxes=(), stamp_duty=Decimal(0), total=Decimal("200.00"))

    printed = pages(pdf_render(document))

    assert len(printed) == 6
    assert [n for n in range(1, 201) if f"Ligne {n:03} 1 1,00 1,00" not in " ".join(printed)] == []
    assert [page.count("Désignation Qté Prix unitaire Montant") for page in printed] == [1] * 6
    assert printed[-1].count("Total 200,00 DA Arrêtée la présente facture à la somme de : Deux cents dinars algériens") == 1
    assert [f"Page {n} sur 6" in page for n, page in enumerate(printed, start=1)] == [True] * 6


def test_an_invoice_without_lines_or_tax_is_a_page_too() -> None:
    document = french(lines=(), net=Decimal(0), taxes=(), stamp_duty=Decimal(0), total=Decimal("0.00"))

    assert missing(document, "Prix unitaire Montant", "Aucune ligne", "Total 0,00 DA", "Zéro dinar algérien") == []


def test_long_names_stay_on_the_page() -> None:
    name = "Société " + "très longue " * 15 + "x" * 120
    document = french(
        seller=replace(french().seller, name=name),
        customer=replace(BENALI, name=name),
        lines=(replace(french().lines[0], description=name, amount=Decimal("17250.00")),),
    )

    page = pypdfium2.PdfDocument(pdf_render(document))[0]

    texts = page.get_textpage()
    boxes = [texts.get_charbox(index) for index in range(texts.count_chars())]
    assert min(left for left, *_ in boxes) > 40
    assert max(right for *_, right, _ in boxes) < page.get_width() - 40


def test_a_credit_note_names_what_it_corrects() -> None:
    document = french(
        kind=DocumentKind.CREDIT_NOTE,
        number="AV-2026-000007",
        corrected_number="2026-000123",
        corrected_date=date(2026, 11, 20),
    )

    assert (
        missing(
            document,
            *("Facture d’avoir", "AV-2026-000007", "Avoir sur la facture 2026-000123 du 20/11/2026"),
            *("Total de l’avoir 20 127,50 DA", "Arrêtée la présente facture d’avoir"),
        )
        == []
    )


@pytest.mark.parametrize(
    ("document", "words"),
    [(french(), "FACTURE ANNULÉE"), (arabic(), "فاتورة ملغاة"), (english(), "VOID")],
    ids=["fr", "ar", "en"],
)
def test_a_void_invoice_says_so(document: InvoiceDocument, words: str) -> None:
    assert layout(replace(document, mark=DocumentMark.VOID))["mark"] == words
    assert missing(replace(document, mark=DocumentMark.VOID), words.split()[-1]) == []


def test_what_is_left_to_pay_is_said() -> None:
    document = french(balance_applied=Decimal("127.50"), amount_paid=Decimal("5000.00"))

    assert missing(document, "Imputé sur votre solde −127,50", "Déjà réglé −5 000,00", "Reste à payer 15 000,00 DA") == []


def test_a_seller_without_tax_prints_none() -> None:
    lines = (DocumentLine("Abonnement", Decimal(1), Decimal("1590.00"), Decimal("1590.00")),)
    document = french(
        lines=lines,
        net=Decimal("1590.00"),
        taxes=(),
        stamp_duty=Decimal(0),
        total=Decimal("1590.00"),
        mentions=("TVA non applicable.",),
    )

    text = text_of(document)

    assert "TVA non applicable." in text
    assert [word for word in ("HT", "TTC", "Taxe") if word in text] == []


def test_a_document_that_does_not_add_up_is_never_printed() -> None:
    with pytest.raises(ValueError, match="do not add up to 20127.51"):
        french(total=Decimal("20127.51"))
    with pytest.raises(ValueError, match="lines of 2026-000123 do not add up"):
        french(lines=())
    with pytest.raises(ValueError, match="language 'de'"):
        french(language="de")


def test_pictures_have_one_page_each() -> None:
    assert [picture[:4] for picture in png_render(french(), pixels_per_inch=36)] == [b"\x89PNG"]
