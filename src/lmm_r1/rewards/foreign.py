r"""Money and units in signs that are no Latin words: $20, 20€, 5米, 3小时, 12個.

`spelled_out` puts them into words in \text{...} before anything else is read, so that a sign is never dropped: £20 is not $20.
A dollar sign before a number is money where it cannot be the opening of mathematics: alone, or before another such sign.
Left out: numbers in Chinese signs; counters beyond the table.
"""

from __future__ import annotations

import re

_FRACTION = r"\\[dt]?frac\s?(?:\{\s?-?\s?\d{1,9}\s?\}|\d)\s?(?:\{\s?-?\s?\d{1,9}\s?\}|\d)"
_NUMBER = r"(?:\.\d+|\d+(?:(?:,|\{,\})\d{3})*(?:\.\d+)?)"
_SCALED = r"(?:\s?(?:million|billion|thousand|trillion|[kKMB]|bn|mn)(?![a-zA-Z]))?"
_CODES = {"USD": "dollar", "US$": "dollar", "US\\$": "dollar", "EUR": "euro", "GBP": "sterling", "RMB": "yuan", "CNY": "yuan", "JPY": "yen",
          "INR": "rupee", "Rs": "rupee", "Rs.": "rupee"}  # fmt: skip
_SIGNS = {"\\$": "dollar", "€": "euro", "£": "sterling", "¥": "yenyuan", "￥": "yenyuan", "₩": "won", "₹": "rupee", "\\pounds": "sterling", "\\euro": "euro",
          "\\text{€}": "euro", "\\text{£}": "sterling", "\\text{\\$}": "dollar"}  # fmt: skip
_ANY = "|".join(re.escape(sign) for sign in sorted((*_SIGNS, *_CODES), key=len, reverse=True))
_BEFORE = re.compile(rf"(?<![a-zA-Z])({_ANY})\s?(-?)\s?({_NUMBER}|{_FRACTION})({_SCALED})")
_BEHIND = re.compile(rf"(?<=[\d}}])({_SCALED})\s?(\\\$|[€£¥￥₩₹]|\\euro|\\pounds)(?!\s?\d)")
_HAS_MONEY = re.compile(r"\\\$|[€£¥￥₩₹]|USD|US\$|EUR|GBP|RMB|CNY|JPY|INR|Rs|\\euro|\\pounds")
#: A sign before anything else that is one value: \$\frac 34.
_LEADING = re.compile(r"\s*\$?\s*(-?)\s*(\\\$|[€£¥])\s?([^$€£¥,;=]{0,60}?\d[^$€£¥,;=]{0,60}?)\s*\$?\s*")
#: The same behind words: 答案是\$\sqrt{2}.
_IN_SENTENCE = re.compile(r"\\\$\s?([^$€£¥,;=]{0,60}?\d[^$€£¥,;=]{0,60}?)\s*\$?(?=\s*[.。！!]*$)")
_DOLLAR = re.compile(r"(?<![\\$])\$(?!\$)")
_MONEY = re.compile(rf"\$\s?-?{_NUMBER}")
_LETTER_SCALES = {"k": "thousand", "K": "thousand", "M": "million", "mn": "million", "B": "billion", "bn": "billion"}

_CJK_UNITS = {
    "平方厘米": "cm^2", "平方公分": "cm^2", "立方厘米": "cm^3", "平方千米": "km^2", "平方公里": "km^2", "平方米": "m^2", "平方公尺": "m^2",
    "立方米": "m^3", "立方公尺": "m^3", "平方分米": "dm^2", "立方分米": "dm^3", "厘米": "cm", "公分": "cm", "釐米": "cm", "毫米": "mm", "分米": "dm",
    "千米": "km", "公里": "km", "公尺": "m", "米": "m", "千克": "kg", "公斤": "kg", "毫克": "mg", "克": "g", "公克": "g", "吨": "tonne", "噸": "tonne",
    "毫升": "ml", "公升": "l", "升": "l", "小时": "hours", "小時": "hours", "時間": "hours", "分钟": "minutes", "分鐘": "minutes", "分间": "minutes",
    "分間": "minutes", "秒钟": "seconds", "秒鐘": "seconds", "秒": "seconds", "天": "days", "日間": "days", "周": "weeks", "週間": "weeks", "个月": "months",
    "個月": "months", "ヶ月": "months", "か月": "months", "年": "years", "美元": "dollars", "ドル": "dollars", "欧元": "euros", "歐元": "euros", "ユーロ": "euros",
    "平方英寸": "in^2", "平方英尺": "ft^2", "英寸": "in", "吋": "in", "英尺": "ft", "英里": "miles", "磅": "lb", "盎司": "oz", "英镑": "sterling", "英鎊": "sterling", "人民币": "yuan", "元": "yuan", "圆": "yuan", "块钱": "yuan", "日元": "yen", "円": "yen", "センチ": "cm",
    "メートル": "m", "キロ": "km", "グラム": "g", "リットル": "l", "センチメートル": "cm", "キロメートル": "km", "ミリメートル": "mm", "キログラム": "kg",
    "시간": "hours", "분": "minutes", "초": "seconds", "원": "won", "미터": "m", "센티미터": "cm", "度": "degrees", "도": "degrees",
    "千米每小时": "km/h", "千米/时": "km/h", "千米/小时": "km/h", "米每秒": "m/s", "米/秒": "m/s", "公里每小时": "km/h",
}  # fmt: skip
#: What is counted; the word itself is the unit.
_COUNTERS = "个 個 人 名 位 只 隻 条 條 本 张 張 次 种 種 件 辆 輛 棵 朵 岁 歳 歲 颗 顆 支 枝 根 匹 枚 頭 头 套 份 家 页 頁 行 列 步 場 场 回 倍数 つ ポイント 点 點 개 명 마리 살 번 組 组 班 座 间 間 台 艘 盒 箱 袋 瓶 杯 碗 双 雙 对 對 把 題 题 道"
_CJK = "|".join(sorted((*_CJK_UNITS, *_COUNTERS.split()), key=len, reverse=True))
_CJK_UNIT = re.compile(
    rf"(?<=[\d)}}%])(\s?\$?\s?)({_CJK})(?=[\s\d.,。，、!！$)}}]|$|です|だ|である|左右|了|학생|학|入)"
)
_CJK_SCALES = {"万": 4, "萬": 4, "亿": 8, "億": 8, "만": 4, "억": 8, "千万": 7, "千萬": 7, "百万": 6, "百萬": 6}
_CJK_SCALE = re.compile(r"(\d+(?:\.\d+)?)\s?(千万|千萬|百万|百萬|万|萬|亿|億|만|억)")


def spelled_out(text: str) -> str:
    r"""The text with currency signs as \text{ dollar} behind their number, and units in Chinese, Japanese or Korean in Latin letters."""
    if "$" in text:
        text = _dollars(text)
    if _HAS_MONEY.search(text):
        text = _BEFORE.sub(_behind, text)
        if (leading := _LEADING.fullmatch(text)) is not None:
            text = f"{leading[1]}{leading[3]}\\text{{ {_SIGNS[leading[2]]}}}"
        elif text.count("\\$") == 1:
            text = _IN_SENTENCE.sub(lambda m: f"{m[1]}\\text{{ dollar}}", text)
        text = _BEHIND.sub(lambda m: f"{_scaled(m[1])}\\text{{ {_SIGNS.get(m[2], m[2])}}}", text)
    if text.isascii():
        return text
    text = _CJK_SCALE.sub(lambda m: f"{m[1]}\\times 10^{{{_CJK_SCALES[m[2]]}}} ", text)
    return _CJK_UNIT.sub(lambda m: f"\\text{{ {_CJK_UNITS.get(m[2], 'piece')}}} ", text)


def _behind(match: re.Match[str]) -> str:
    sign, minus, number, scale = match.groups()
    return f"{minus}{number}{_scaled(scale)}\\text{{ {_SIGNS.get(sign) or _CODES[sign]}}}"


def _scaled(scale: str) -> str:
    word = scale.strip()
    return f" {_LETTER_SCALES.get(word, word)} " if word else ""


def _dollars(text: str) -> str:
    r"""Bare dollar signs that are money as \$; those that open and close mathematics stay."""
    signs = [match.start() for match in _DOLLAR.finditer(text)]
    if (
        len(signs) == 1
        and signs[0] > 0
        and re.fullmatch(rf"-?{_NUMBER}\s?", text[: signs[0]].strip())
        and not text[signs[0] + 1 :].strip()
    ):
        return text[: signs[0]] + "\\$"  # 20$
    found, at, last = [], 0, 0
    while at < len(signs):
        here = signs[at]
        closing = signs[at + 1] if at + 1 < len(signs) else None
        money = _MONEY.match(text, here) is not None
        opens = closing is not None and not (text[closing - 1].isspace() and text[closing + 1 : closing + 2].isdigit())
        if money and not opens:
            found += [text[last:here], "\\"]
            last = here
            at += 1
        else:
            at += 2
    return "".join((*found, text[last:])) if found else text


def is_foreign_unit(word: str) -> bool:
    """Whether a word in Chinese, Japanese or Korean is a unit of the table."""
    return word in _CJK_UNITS
