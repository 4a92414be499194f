"""The expressions behind `model.tokenizer`, one name for each rule of Owoputi et al. (2013).

The rules were tuned on Java's classes, where a digit, a word character and a space are ASCII; hence
the spelt-out classes. Only the boundary ``\\b`` knows all letters.
"""

import re


def _any_of(*choices: str) -> str:
    return "(?:" + "|".join(choices) + ")"


_NOT_WORD_NEXT = r"(?![A-Za-z0-9_])"
_APOSTROPHE = "['’′]"
_ENTITY = "&(?:amp|lt|gt|quot);"

# Java's whitespace and Unicode's space separators; the line and paragraph separators are not in it.
OTHER_SPACE = re.compile("[\t\n\x0b\f\r\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")

# --- punctuation at the edge of a word: 'foo' is ' foo ', don't stays whole
_EDGE = r"""['"“”‘’«»{}()\[\]*&]"""
_CONTENT = "[A-Za-z0-9]"
EDGE_LEFT = re.compile(rf"(?:^|[:;., ]){_EDGE}++{_CONTENT}")
EDGE_RIGHT = re.compile(rf"{_CONTENT}{_EDGE}++(?:\Z|[:;., ])")

# --- addresses
_TLD = "(?:com|org|edu|gov|net|mil|aero|asia|biz|cat|coop|info|int|jobs|mobi|museum|name|pro|tel|travel|xxx)"
# As of 2012, by first letter: today's list would cut other words than the original does.
_COUNTRY_LETTERS = {
    "a": "cdefgilmnoqrstuwxz",
    "b": "abdefghijmnorstvwyz",
    "c": "acdfghiklmnorsuvxyz",
    "d": "dejkmoz",
    "e": "ceghrstu",
    "f": "ijkmor",
    "g": "abdefghilmnpqrstuwy",
    "h": "kmnrtu",
    "i": "delmnoqrst",
    "j": "emop",
    "k": "eghimnprwyz",
    "l": "abcikrstuvy",
    "m": "acdeghklmnopqrstuvwxyz",
    "n": "acefgilopruz",
    "o": "m",
    "p": "aefghklmnrstwy",
    "q": "a",
    "r": "eosuw",
    "s": "abcdeghijklmnorstuvyz",
    "t": "cdfghjklmnoprtvwz",
    "u": "agksyz",
    "v": "aceginu",
    "w": "fs",
    "y": "et",
    "z": "amw",
}
_COUNTRY = _any_of(*(f"{first}[{seconds}]" for first, seconds in _COUNTRY_LETTERS.items()))
_PUNCTUATION = "['\"“”‘’.?!…,:;]"
_URL_WITH_SCHEME = r"(?:https?://|\bwww\.)"
_BARE_DOMAIN = rf"\b[A-Za-z0-9-]++(?:\.[A-Za-z0-9]++){{0,3}}\.(?:{_TLD}|{_COUNTRY})(?:\.{_COUNTRY})?" + _NOT_WORD_NEXT
# Punctuation before the end of the address is the sentence's, not the address's.
_URL_STOPS = rf"(?=(?:{_PUNCTUATION}|{_ENTITY})*?(?:\.\.+|[<> ]|\Z))"
_URL = f"(?:{_URL_WITH_SCHEME}|{_BARE_DOMAIN})(?:[^. <>][^ <>]*?)?{_URL_STOPS}"
_EMAIL = r"(?<![A-Za-z0-9_])[A-Za-z0-9._%+-]++@[A-Za-z0-9.-]+\.[A-Za-z]{2,4}" + _NOT_WORD_NEXT

# --- numbers
_CURRENCY = (
    "[$¢-¥\u058f\u060b\u09f2\u09f3\u09fb\u0af1\u0bf9\u0e3f\u17db\u20a0-\u20c0\ua838\ufdfc\ufe69"
    "＄\uffe0\uffe1\uffe5\uffe6]"
)
_TIME = "[0-9]++(?::[0-9]+){1,2}"
_THOUSANDS = r"(?:(?<![0-9])[0-9]{1,3},)+?[0-9]{3}(?=[^,0-9]|\Z)"
_DECIMAL = rf"{_CURRENCY}?[0-9]++(?:\.[0-9]++)++%?"

# --- emoticons
_HEARTS = "(?:<+/?3+)+"
_NOSE = "(?:|-|[^A-Za-z0-9 ])"
_SAD = r"[(\[{]+"
_HAPPY = r"[D)\]}]+"
_TONGUE = "[pPd3]+"
_OTHER_MOUTH = r"(?:[oO]+|[/\\]+|[vV]+|[Ss]+|[|]+)"
# A mouth that is a letter must not begin a word; RT may follow at once.
_MOUTH_ENDS = r"(?=[^A-Za-z0-9_]|\Z|RT|rt|Rt)"
_WESTERN = f"(?:>|&gt;)?[:=;](?:{_NOSE}|[Oo])(?:{_TONGUE}{_MOUTH_ENDS}|{_OTHER_MOUTH}{_MOUTH_ENDS}|{_SAD}|{_HAPPY})"
# Only after a space: elsewhere the eyes are more often the colon of "(word):".
_REVERSED = f"(?:(?<= )|^)(?:{_SAD}|{_HAPPY}|{_OTHER_MOUTH}){_NOSE}[:=;](?:<|&lt;)?"

_EYES = "♥0°$;\u0ca0@ʘ•・◕^¬*oOvVtTxX"
_ANGLE = "(?:<|&lt;|>|&gt;)"
_FACE = _any_of(
    rf"(?i:(?P<eye>[{re.escape(_EYES)}])(?:\.|[_-]++)(?P=eye))",
    "--['\"]",
    rf"{_ANGLE}[._-]++{_ANGLE}",
    r"\._+\.",
)
FACE = re.compile(_FACE)
FACE_STARTS = frozenset(_EYES + "-<>&.")
EASTERN_LEFT = frozenset("＼\\ƪԄ(（<>;ヽ-=~*")
EASTERN_RIGHT = frozenset("-=);'\"<>ʃ）/／ノﾉ丿╯σっµ~*")
# What can't be part of an eastern face unless a whole FACE is read.
NO_EASTERN_SYMBOL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ()*:=-")
# Most posts have no place where an eastern emoticon could begin, and are spared the search.
EASTERN_HINT = re.compile(r"[＼\\ƪԄ(（<>;ヽ\-=~*]" rf"(?:[{re.escape(_EYES)}-]|[^A-Za-z0-9 ()*:=-])")

# --- symbols and abbreviations
_ARROWS = "(?:<*[-―—=]*>+|<+[-―—=]*>*|[\u2190-\u21ff]+)"
_PUNCTUATION_RUN = "(?:['\"“”‘’]+|[.?!,…]+|[:;]+)"
_ABBREVIATION_ENDS = rf'(?=\Z|[ “"?!,:;]|{_ENTITY})'
_ABBREVIATION = _any_of(
    rf"(?:[A-Za-z]\.){{2,}}{_ABBREVIATION_ENDS}",
    rf"[^A-Za-z](?:[A-Za-z]\.)+[A-Za-z]{_ABBREVIATION_ENDS}",
    r"\b(?:[Mm]r|[Mm]rs|[Mm]s|[Dd]r|[Ss]r|[Jj]r|[Rr]ep|[Ss]en|[Ss]t)\.",
)
_SEPARATOR = "(?:--+|[―—~–=])"
_DECORATION = "(?:[♫♪]+|[★☆]+|[♥❤♡]+|[\u2639-\u263b]+|[\ue001-\uebbb]+)"
_WITH_APOSTROPHE = rf'[^ .,?"]+{_APOSTROPHE}[^ .,?"]*'
_HASHTAG = "#[A-Za-z0-9_]+"
_MENTION = "[@＠][A-Za-z0-9_]+"

HASHTAG = re.compile(r"#\w")  # in any script, unlike the rule

BEFORE_EASTERN = re.compile(_any_of(_HEARTS, _URL, _EMAIL, _TIME, _THOUSANDS, _DECIMAL, _WESTERN, _REVERSED))
AFTER_EASTERN = re.compile(
    _any_of(
        _FACE,
        _ARROWS,
        _ENTITY,
        _PUNCTUATION_RUN,
        _ABBREVIATION,
        _SEPARATOR,
        _DECORATION,
        _WITH_APOSTROPHE,
        _HASHTAG,
        _MENTION,
    )
)

# --- the public Twitter-2017 set: every mark stands alone, and 1st is "1", "st"
TWITTER2017 = re.compile(
    r"(?:https?://|\bwww\.)[^\s<>]+|:-?[()D](?!\w)|[0-9]+(?:[.,][0-9]+)*|[^\W0-9]\w*|[^\s\x00-\x1f]"
)
