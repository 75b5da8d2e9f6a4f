"""Text in encodings older than UTF-8: read if its mark says so, otherwise named, and never taken for what it is not."""

import unicodedata

import pytest
from test_formats import openai, write_rows
from test_read import OPEN, SHIP, jsonl, problems, write

from hoidap.data.items import Item
from hoidap.data.legacy import _is_syllable
from hoidap.data.read import read_items
from hoidap.prompt import Turn

# The state's name and motto, as they head countless documents of the time.
REAL = "Cộng hòa xã hội chủ nghĩa Việt Nam", "Độc lập - Tự do - Hạnh phúc"
TCVN3 = "Céng hßa x· héi chñ nghÜa ViÖt Nam", "§éc lËp - Tù do - H¹nh phóc"
VNI = "Coäng hoøa xaõ hoäi chuû nghóa Vieät Nam", "Ñoäc laäp - Töï do - Haïnh phuùc"
VISCII = "C\xb5ng h\xf2a x\xe3 h\xb5i ch\xfc ngh\xeea Vi\xaet Nam", "\xd0\xb5c l\xa7p - T\xf1 do - H\xd5nh ph\xfac"
WINDOWS = (
    "Cô\xf2ng ho\xcca xaÞ hô\xf2i chu\xd2 nghi\xdea Viê\xf2t Nam",
    "\xd0ô\xf2c lâ\xf2p - T\xfd\xf2 do - Ha\xf2nh phu\xecc",
)
OPENED = tuple("".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in text.encode()) for text in REAL)
OLD = {"TCVN3 (ABC, .Vn fonts)": TCVN3, "VNI": VNI, "VISCII": VISCII, "Windows-1258": WINDOWS}
CONVERT = "convert it to Unicode (UniKey's toolkit, Ctrl+Shift+F6, does) and save it as UTF-8"


def named(line: int, name: str, rows: str, shown: str, reads: str, advice: str = CONVERT) -> str:
    return f"{line}: {name}, not Unicode, in {rows}: {shown!r} reads {reads!r} once converted; {advice}"


@pytest.mark.parametrize(("name", "texts"), OLD.items(), ids=OLD)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_bytes_of_an_old_encoding_are_named_and_read_for_comparison(name, texts, kind, tmp_path):
    rows = (
        {"question": "a", "answer": "b"},
        {"question": texts[0], "answer": texts[1]},
        {"question": "c", "answer": texts[1]},
    )
    raw = write_rows(tmp_path, kind, list(rows)).read_text(encoding="utf-8").encode("latin-1")
    line = 2 if kind == "jsonl" else 3
    assert problems(write(tmp_path, f"old.{kind}", raw)) == (
        f"old.{kind}:" + named(line, name, "2 rows", texts[0], REAL[0]),
    )


@pytest.mark.parametrize("name", ["TCVN3 (ABC, .Vn fonts)", "VNI"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "xlsx", "parquet"])
def test_cells_of_an_old_encoding_are_named_among_others(name, kind, tmp_path):
    rows = [{"question": f"Câu hỏi {n}, café à «la carte» 5 µg?", "answer": "Được ạ, 20 m²."} for n in range(20)]
    rows[11] = {"question": "Ai?", "answer": OLD[name][0]}
    rows[12] = {"question": OLD[name][1], "answer": "Được"}
    (problem,) = problems(write_rows(tmp_path, kind, rows))
    assert problem.split(": ", 1)[1] == named(0, name, "2 rows", OLD[name][0], REAL[0]).split(": ", 1)[1]
    assert problem.startswith(f"shop.{kind}:{ ({'json': 46, 'jsonl': 12, 'parquet': 12}.get(kind, 13)) }: ")


@pytest.mark.parametrize("name", ["TCVN3 (ABC, .Vn fonts)", "VNI"])
def test_an_old_encoding_in_a_conversation_is_named(name, tmp_path):
    row = {"messages": openai([Turn("a", "b"), Turn(*OLD[name])])}
    assert problems(write(tmp_path, "shop.jsonl", jsonl(row))) == (
        "shop.jsonl:" + named(1, name, "1 row", OLD[name][0], REAL[0]),
    )


@pytest.mark.parametrize(
    ("header", "name"), [("C©u hái,Tr¶ lêi", "TCVN3 (ABC, .Vn fonts)"), ("Caâu hoûi,Traû lôøi", "VNI")]
)
def test_a_header_in_an_old_encoding_is_not_a_missing_column(header, name, tmp_path):
    shown = header.split(",")[0]
    assert problems(write(tmp_path, "shop.csv", f"{header}\na,b\n")) == (
        "shop.csv:" + named(1, name, "1 row", shown, "Câu hỏi"),
    )


@pytest.mark.parametrize(
    ("text", "reads", "name"),
    [
        ("Tr­êng §¹i häc", "Trường Đại học", "TCVN3 (ABC, .Vn fonts)"),
        ("TR¦êNG §¹I HäC", "TRƯờNG ĐạI HọC", "TCVN3 (ABC, .Vn fonts)"),
        ("Hµ Néi", "Hà Nội", "TCVN3 (ABC, .Vn fonts)"),
        (f"{TCVN3[0]} café", f"{REAL[0]} cafộ", "TCVN3 (ABC, .Vn fonts)"),
        ("“Tr­êng” – §¹i häc…", "“Trường” – Đại học…", "TCVN3 (ABC, .Vn fonts)"),
        ("Tröôøng Ñaïi hoïc", "Trường Đại học", "VNI"),
        ("Hoûi ñaùp", "Hỏi đáp", "VNI"),
        ("Caáp aùo", "Cấp áo", "VNI"),
    ],
)
def test_two_words_are_enough(text, reads, name, tmp_path):
    assert problems(write(tmp_path, "shop.csv", f"question,answer\na,{text}\n")) == (
        "shop.csv:" + named(2, name, "1 row", text, reads),
    )


def test_words_in_quotes_are_words(tmp_path):
    (problem,) = problems(write(tmp_path, "shop.csv", "question,answer\n“Mở” «cửa» “lúc” “mấy” … “giờ”?,Hµ Néi\n"))
    assert problem.startswith("shop.csv:2: TCVN3 (ABC, .Vn fonts), not Unicode, in 1 row: ")


def test_utf8_that_was_opened_as_windows_1252_is_named(tmp_path):
    advice = "open the original again, as UTF-8"
    (problem, *_) = problems(write(tmp_path, "shop.csv", f"question,answer\n{OPENED[0]},{OPENED[1]}\n"))
    assert problem == "shop.csv:" + named(2, "UTF-8 that was opened as Windows-1252", "1 row", OPENED[0], REAL[0], advice)


def test_two_old_encodings_in_one_file_are_both_named_before_other_problems(tmp_path):
    text = f"question,answer\na,\n{TCVN3[0]},{TCVN3[1]}\n{VNI[0]},{VNI[1]}\n{VNI[1]},b\n"
    assert problems(write(tmp_path, "shop.csv", text)) == (
        "shop.csv:" + named(3, "TCVN3 (ABC, .Vn fonts)", "1 row", TCVN3[0], REAL[0]),
        "shop.csv:" + named(4, "VNI", "2 rows", VNI[0], REAL[0]),
        "shop.csv:2: the answer is empty",
    )


def test_a_long_cell_is_shown_around_its_first_sign(tmp_path):
    (problem,) = problems(write(tmp_path, "shop.csv", f"question,answer\na,{'x ' * 100}{TCVN3[0]} {'y ' * 100}\n"))
    shown, reads = (f"{'x ' * 12}{text} y" for text in (TCVN3[0], REAL[0]))
    assert problem == "shop.csv:" + named(2, "TCVN3 (ABC, .Vn fonts)", "1 row", shown, reads)


@pytest.mark.parametrize(
    "text",
    [
        "Où est la gare? À Paris, près de l'hôtel; un café crème, s'il vous plaît, Noël à la crêperie",
        "Straße für Größe, schöne Übung, Äpfel und Öl in München",
        "¿Dónde está el baño, señor? Mañana en España, ¡qué niño!",
        "São Paulo não é a capital; informações à direita, três avós",
        "Så är det på gång, men å gå på æ ø",
        "We use “naïve” façade—résumé © 2024 ® ™ 5 µm, 20 m², 3 m³, 25 °C, 5 × 5 ± 1, §5",
        "Nước: 5 µg · 10° · 20 m² · 3 m³ · 25 °C",
        "Mở cửa © 2024 Công ty ABC® «ngoặc kép» giá 5 × 500.000đ ± 1",
        "hổngg pít nha shop oiii, đc hông dzậy, wá đẹp zậy òy, thía á, hông bít lun, kóa chớ",
        "Krông Pắc, Đắk Lắk, Ê-đê, Plei Ku, Kông Chro, Pác Bó, Ia Ðrăng",
        "Hoà thuý, quý, khoẻ, loè, huề, thuở, khuỷu, nguệch ngoạc, quăng, giếng, gìn giữ, ngoằn ngoèo",
        "Soft\u00adhyphen and no\u00a0break « spaces »: «%s» l\u2019eau",
        "5 µm, 20 m²",
        "å gå første",
        "%s\u00a0: %d\u00a0: %n\u00a0: «-c»",
        "s\u00a0: d\u00a0: n\u00a0: §5",
        "Ðà Nẵng, Ðông Hà, Ðài, Ðô",
        "laäp",
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_other_languages_and_signs_are_no_old_encoding(text, kind, tmp_path):
    rows = [{"question": "a", "answer": text}, {"question": unicodedata.normalize("NFD", text), "answer": "b"}]
    assert read_items(write_rows(tmp_path, kind, rows)) == [Item("a", text), Item(text, "b")]


def test_a_page_of_norwegian_with_two_such_words_is_no_old_encoding(tmp_path):
    others = ["må", "få", "når", "også", "språk", "blåbær", "størrelse", "mønster", "første", "følger", "søk", "løsning"]
    rows = ["klarte ikke å gå tilbake", *(f"det er {word}" for word in others)]
    assert len(read_items(write(tmp_path, "shop.csv", "question,answer\n" + "".join(f"a,{row}\n" for row in rows)))) == 13
    assert problems(write(tmp_path, "shop.csv", f"question,answer\na,{rows[0]}\n"))  # alone, it cannot be told


@pytest.mark.parametrize(
    ("words", "is_one"),
    [
        ("anh chị em quýt khuỷu nguệch ngoạc ngoằn ngoèo giếng gìn ghế nghiêng thuở huơ xoong", True),
        ("Ưu Ðặng yểng ý quá hoà hòa thuý thúy quỳnh", True),
        ("Đắk-Lắk café où thế' càt ỏc ích' zậy wá đc nhiềuu hổngg ươ ấó mạs ạ́ Hanoi forêt", False),
    ],
)
def test_a_syllable_is_one_by_its_letters_and_its_tone(words, is_one):
    assert [word for word in words.split() if _is_syllable(word) is not is_one] == []


def test_bytes_of_another_language_are_not_named_after_a_vietnamese_encoding(tmp_path):
    text = "question,answer\noù,à la gare d'été\nNoël,crêpe brûlée\n"
    assert problems(write(tmp_path, "shop.csv", text.encode("latin-1"))) == (
        "shop.csv:2: not UTF-8 text (byte 0xf9); save the file as UTF-8",
    )


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-16-le", r"b'c\x00\xe2\x00u\x00'"), ("utf-16-be", r"b'\x00c\x00\xe2\x00u'")]
)
@pytest.mark.parametrize("name", ["shop.csv", "shop.jsonl"])
def test_utf16_without_its_mark_is_named(name, encoding, shown, tmp_path):
    assert problems(write(tmp_path, name, "câu\ttrả lời\r\na\tb\r\n".encode(encoding))) == (
        f"{name}:1: UTF-16 without its byte order mark: {shown} reads 'câu' once decoded; save the file as UTF-8",
    )


def test_utf16_that_is_cut_is_refused(tmp_path):
    assert problems(write(tmp_path, "shop.csv", "question\tanswer\na\tb\n".encode("utf-16")[:-1])) == (
        "shop.csv: begins as UTF-16 and does not go on so (truncated data, byte 40); save it as UTF-8",
    )


def test_utf16_rows_are_named_by_their_lines(tmp_path):
    text = "question\tanswer\r\na\t\r\n" + OPEN.question + "\t" + SHIP.answer + "\r\n"
    assert problems(write(tmp_path, "shop.csv", text.encode("utf-16"))) == ("shop.csv:2: the answer is empty",)
