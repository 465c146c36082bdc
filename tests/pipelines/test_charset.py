"""Bytes to text: no mojibake where the bytes allow an answer, a refusal where they do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import charset

RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 5
JAPANESE = "いろはにほへと散りぬるを我が世誰ぞ常ならむ有為の奥山今日越えて。" * 5
FRENCH = "Voilà l'été à la plage où naît la forêt, déjà. " * 5


@pytest.mark.parametrize(
    ("text", "codec", "content_type"),
    [
        (FRENCH, "utf-8", ""),
        (FRENCH, "utf-8", "text/html; charset=iso-8859-1"),
        (FRENCH, "cp1252", "text/html; charset=ISO-8859-1"),
        (FRENCH, "cp1252", 'text/html; charset="latin1"'),
        (RUSSIAN, "cp1251", "text/html; charset=windows-1251"),
        (RUSSIAN, "koi8-r", '<meta charset="koi8-r">'),
        (RUSSIAN, "cp1251", "detected"),
        (JAPANESE, "cp932", "<meta http-equiv=content-type content='text/html; charset=Shift_JIS'>"),
        (JAPANESE, "euc_jp", "text/html; charset=euc-jp"),
        (JAPANESE, "iso2022_jp", "<meta charset=iso-2022-jp>"),
        (JAPANESE, "utf-16-le", "mark"),
        (JAPANESE, "utf-16-be", "mark"),
        (FRENCH, "utf-16-le", ""),
    ],
)
def test_text_comes_back(text: str, codec: str, content_type: str) -> None:
    html = f"<html><p>{text}</p></html>"
    header = content_type if content_type.startswith("text/") else ""
    if content_type.startswith("<"):
        html = content_type + html
    body = ("\ufeff" * (content_type == "mark") + html).encode(codec)
    found = charset.to_utf8(body, header)
    assert found.text.decode() == html
    assert found.codec == codec


def test_a_default_header_does_not_outrank_a_meta_that_fits() -> None:
    html = '<meta charset="gb2312"><p>' + "中文网页编码测试内容" * 20
    assert charset.to_utf8(html.encode("gb18030"), "text/html; charset=ISO-8859-1").text.decode() == html


def test_utf8_with_a_few_bad_bytes_stays_utf8() -> None:
    body = RUSSIAN.encode() + b"\xff" + RUSSIAN.encode()
    found = charset.to_utf8(body, "text/html; charset=iso-8859-1")
    assert (found.codec, found.text.decode()) == ("utf-8", RUSSIAN * 2)


def test_utf8_that_was_cut_inside_a_character() -> None:
    assert charset.to_utf8(RUSSIAN.encode() + "я".encode()[:1]).text.decode() == RUSSIAN


@pytest.mark.parametrize("body", [b"\0" * 1000, bytes(range(256)) * 20, b"\x89PNG\r\n\x1a\n" + b"\0\1\2\3" * 100])
def test_binary_is_refused(body: bytes) -> None:
    found = charset.to_utf8(body)
    assert (found.codec, found.text) == ("", b"")
    assert found.bad > charset.MAX_BAD


def test_only_codecs_of_the_web_are_looked_up() -> None:
    body = b'<meta charset="rot13"><p>caf\xe9 au lait, s\'il vous pla\xeet'
    assert "café" in charset.to_utf8(body, "text/html; charset=unicode_escape").text.decode()
    for codec in charset.LABELS:
        assert "a".encode(codec)


@given(st.binary(max_size=300), st.text(max_size=40))
def test_every_answer_is_utf8_without_controls(body: bytes, content_type: str) -> None:
    found = charset.to_utf8(body, content_type)
    text = found.text.decode("utf-8")
    assert "\ufffd" not in text or b"\xef\xbf\xbd" in body
    assert not set(found.text) & set(charset.CONTROLS)


@pytest.mark.parametrize(
    "text",
    ["<p>A café near the sea.</p>", "<p>résumé", "<p>It’s a naïve idea, said Renée.", "<p>El Niño and Señor Muñoz</p>"],
)
@pytest.mark.parametrize("times", [1, 30])
@pytest.mark.parametrize("padding", ["", "<p>" + "All of this is plain English. " * 400])
def test_accents_survive_a_page_that_wrongly_says_utf8(text: str, times: int, padding: str) -> None:
    page = "<meta charset=utf-8>" + text * times + padding
    found = charset.to_utf8(page.encode("cp1252"), "text/html; charset=UTF-8")
    assert found.text.decode() == page
    assert found.bad == 0


def test_a_page_of_utf8_with_a_broken_byte_stays_utf8() -> None:
    page = "<p>Ångström, café, naïve, déjà vu, œuvre, Zürich, “quoted” — and more</p>"
    found = charset.to_utf8(page.encode() + b"caf\xe9 au lait" + b" and tea" * 200, "text/html; charset=UTF-8")
    assert found.codec == "utf-8"
    assert found.text.decode().startswith(page)


def test_cyrillic_that_says_utf8_is_detected() -> None:
    page = "<p>" + "Паром выходит из гавани в полдень и возвращается вечером. " * 3
    assert charset.to_utf8(page.encode("cp1251"), "text/html; charset=utf-8").text.decode() == page


SAMPLES = {
    "iso8859-2": "Příliš žluťoučký kůň úpěl ďábelské ódy. ",
    "cp1250": "Příliš žluťoučký kůň úpěl ďábelské ódy. ",
    "iso8859-5": RUSSIAN, "cp1251": RUSSIAN, "koi8-r": RUSSIAN, "cp866": RUSSIAN, "mac_cyrillic": RUSSIAN,
    "koi8-u": "Щастям б'єш жук їх глицю в фон й ґедзь пріч. ", "iso8859-7": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. ",
    "cp1253": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. ", "cp1254": "Pijamalı hasta yağız şoföre çabucak güvendi. ",
    "iso8859-8": "דג סקרן שט בים מאוכזב ולפתע מצא חברה. ", "cp1255": "דג סקרן שט בים מאוכזב ולפתע מצא חברה. ",
    "iso8859-6": "نص حكيم له سر قاطع وذو شأن عظيم. ", "cp1256": "نص حكيم له سر قاطع وذو شأن عظيم. ",
    "cp874": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ", "cp949": "키스의 고유조건은 입술끼리 만나야 하고. ",
    "big5hkscs": "視野無限廣，窗外有藍天。", "gb18030": "视野无限广，窗外有蓝天。",
    "cp932": JAPANESE, "euc_jp": JAPANESE,
}  # fmt: skip


@pytest.mark.parametrize("label", sorted(label for label in charset.CODECS if charset.CODECS[label] in SAMPLES))
@pytest.mark.parametrize("place", ["header", "meta", "late", "xml"])
def test_every_label_is_believed_where_the_bytes_allow_it(label: str, place: str) -> None:
    meta = {
        "meta": f'<meta http-equiv="Content-Type" content="text/html; charset={label.upper()}">',
        "late": "<script charset=utf-8>" + "//" * 2000 + f"</script><meta charset='{label}'>",
        "xml": f'<?xml version="1.0" encoding="{label}"?>',
    }.get(place, "")
    html = f"{meta}<p>{SAMPLES[charset.CODECS[label]] * 4}"
    found = charset.to_utf8(html.encode(charset.CODECS[label]), f"text/html;charset={label}" * (place == "header"))
    assert (found.text.decode(), found.codec) == (html, charset.CODECS[label])


@pytest.mark.parametrize(
    ("meta", "header"),
    [
        ("", "text/html; charset=windows-1251"),
        ("", "text/html; charset='windows-1251'"),
        ("", "text/html;charset = windows-1251;"),
        ("", "text/html; charset=windows-1251; charset=utf-8"),
        ("<meta charset=utf-8>", "text/html; charset=windows-1251"),
        ("<meta charset=utf-8><meta charset=windows-1251>", ""),
        ("<meta charset=nonsense><meta charset=windows-1251>", ""),
        ("<!-- <meta charset=koi8-r> --><meta charset=windows-1251>", ""),
        ("<script charset=koi8-r></script><meta charset=windows-1251>", ""),
        ("<a href='?charset=koi8-r'></a><meta charset=windows-1251>", ""),
        ("<meta charset=utf8;>", ""),  # and the detector
        ("<meta charset=utf-16>", "text/html; charset=utf8;"),
        ("<meta charset=windows-1251>", "text/html; charset=iso-8859-1"),
    ],
)
def test_contradictions(meta: str, header: str) -> None:
    html = meta + "<p>" + RUSSIAN
    assert charset.to_utf8(html.encode("cp1251"), header).text.decode() == html


@pytest.mark.parametrize("label", ["utf8;", "utf-16", "utf-16le", "iso-8859-1", "gb2312", "utf-7", "x-sjis", "none"])
@pytest.mark.parametrize("text", [FRENCH, JAPANESE, "plain +AGEA- ~{<:Ky2;~}"])
def test_utf8_stays_utf8_whatever_is_declared(label: str, text: str) -> None:
    html = f"<meta charset={label}><p>{text}"
    found = charset.to_utf8(html.encode(), f"text/html; charset={label}")
    assert (found.text.decode(), found.codec) == (html, "utf-8")


def test_a_word_with_one_foreign_byte_keeps_its_letter() -> None:
    page = "<p>Schöne Grüße, übrigens: für Öl und Äpfel. " * 9
    found = charset.to_utf8(page.encode() + b"K\xfcchenblogs f\xfcr dich, cut\xc3 here", "text/html; charset=utf-8")
    assert found.codec == "utf-8"
    assert found.text.decode() == page + "Küchenblogs für dich, cut here"
