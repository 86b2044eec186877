"""Regular expressions of tokenizers, translated to JavaScript.

`tokenizers` compiles them with Oniguruma, in the syntax of Ruby. JavaScript's (with the flag "v") is close to it, with
other definitions of white space and of words, no possessive quantifiers, and no case-insensitive groups in older
browsers. What has no equal here is rejected with its name.

Sources: https://github.com/kkos/oniguruma/blob/master/doc/RE and https://tc39.es/ecma262/#sec-patterns.
"""

from __future__ import annotations

from ..errors import ScratchError

ESCAPES = {"n": r"\n", "r": r"\r", "t": r"\t", "f": r"\f", "v": r"\v", "a": r"\x07", "e": r"\x1B"}
WORD = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"
# Sets of characters. In brackets, Oniguruma's words lack the numbers of Latin-1 that are no digits.
SETS = {
    **{"s": r"\p{White_Space}", "S": r"\P{White_Space}", "d": r"\p{Nd}", "D": r"\P{Nd}"},
    **{"w": f"[{WORD}²³¹¼-¾]", "W": f"[^{WORD}²³¹¼-¾]", "h": "[0-9A-Fa-f]", "H": "[^0-9A-Fa-f]"},
}
SETS_INSIDE = {**SETS, "w": f"[{WORD}]", "W": f"[^{WORD}]"}
ANCHORS = {"A": r"(?<![\s\S])", "z": r"(?![\s\S])", "Z": r"(?=\n?(?![\s\S]))"}
GROUPS = {":": "(?:", "=": "(?=", "!": "(?!", "<=": "(?<=", "<!": "(?<!"}
CATEGORIES = {
    *("L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "C", "Cc", "Cf", "Co", "Cn"),
    *("P", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp"),
    *("Letter", "Mark", "Number", "Punctuation", "Symbol", "Separator", "Alphabetic", "White_Space"),
}
SCRIPTS = {
    *("Arabic", "Armenian", "Bengali", "Bopomofo", "Common", "Cyrillic", "Devanagari", "Ethiopic", "Georgian", "Greek"),
    *("Gujarati", "Gurmukhi", "Han", "Hangul", "Hebrew", "Hiragana", "Inherited", "Kannada", "Katakana", "Khmer"),
    *("Lao", "Latin", "Malayalam", "Mongolian", "Myanmar", "Sinhala", "Tamil", "Telugu", "Thai", "Tibetan"),
}
# Letters outside ASCII that are equal to a letter of ASCII without case, and letters that together equal another.
SAME_WITHOUT_CASE = {"s": "ſ", "k": "\u212a"}
LIGATURES = ("ss", "st", "ff", "fi", "fl")
MAX_LENGTH = 20_000
RESERVED = set(r"^$\.*+?()[]{}|/-")  # with a meaning outside brackets or, with those below, inside
RESERVED_INSIDE = RESERVED | set("&!#%,:;<=>@`~")


def to_javascript(pattern: str) -> str:
    """Translate a regular expression of Oniguruma to the source of a `RegExp` with the flag "v".

    Raises:
        ScratchError: JavaScript has no equal for a part of it.
    """
    translation = _Translation(pattern)
    if len(pattern) > MAX_LENGTH:
        raise ScratchError(f"the page can't show this tokenizer: a regular expression has {len(pattern):,} characters")
    try:
        source = translation.alternatives(ignore_case=False)
    except RecursionError:
        raise translation.unsupported("too many groups inside each other") from None
    if translation.at < len(pattern):
        raise translation.unsupported("an unmatched ')'")
    return source


class _Translation:
    """Reads a pattern from left to right; each method reads one part and returns its translation."""

    def __init__(self, pattern: str):
        self.pattern, self.at, self.num_possessive = pattern, 0, 0

    def unsupported(self, what: str) -> ScratchError:
        return ScratchError(
            f"the page can't show this tokenizer: the regular expression {self.pattern[:500]!r} has {what}, "
            "which has no equal in JavaScript"
        )

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def take(self, text: str) -> bool:
        """Whether the rest starts with the text, which is then read."""
        found = self.peek(text)
        self.at += len(text) if found else 0
        return found

    def next(self) -> str:
        if self.at >= len(self.pattern):
            raise self.unsupported("no end")
        self.at += 1
        return self.pattern[self.at - 1]

    def alternatives(self, ignore_case: bool) -> str:
        """Alternatives up to the end of the group."""
        if self.take("(?i)"):
            ignore_case = True
        source, start = "", self.at
        while self.at < len(self.pattern) and not self.peek(")"):
            source += "|" if self.take("|") else self.quantified(ignore_case)
        if ignore_case and any(letters in self.pattern[start : self.at].lower() for letters in LIGATURES):
            raise self.unsupported("letters that a ligature equals without case")
        return source

    def quantified(self, ignore_case: bool) -> str:
        atom, is_assertion = self.atom(ignore_case)
        quantifier = self.quantifier()
        if not quantifier:
            return atom
        if is_assertion:
            raise self.unsupported(f"the quantifier {quantifier} after an assertion")
        if self.take("?"):
            if quantifier.endswith("}") and "," not in quantifier:
                raise self.unsupported(f"the quantifier {quantifier}?")
            quantifier += "?"
        elif self.peek("+"):
            if quantifier.endswith("}"):
                raise self.unsupported(f"the quantifier {quantifier}+")
            self.at += 1
            return self.atomic(atom + quantifier)
        if self.quantifier():
            raise self.unsupported("two quantifiers in a row")
        return atom + quantifier

    def quantifier(self) -> str:
        """`*`, `+`, `?`, `{n}`, `{n,}` or `{n,m}`; "" if there is none."""
        for symbol in "*+?":
            if self.take(symbol):
                return symbol
        if not self.peek("{"):
            return ""
        content, brace, _ = self.pattern[self.at + 1 :].partition("}")
        low, comma, high = content.partition(",")
        if not brace or not (low.isascii() and low.isdigit()) or (high and not (high.isascii() and high.isdigit())):
            raise self.unsupported(f"{{{content}")
        self.at += len(content) + 2
        return f"{{{low}{comma}{high}}}"

    def atomic(self, source: str) -> str:
        """A group that is not entered again once it has matched: what a look-ahead has found, as a backreference."""
        self.num_possessive += 1
        return f"(?:(?=(?<p{self.num_possessive}>{source}))\\k<p{self.num_possessive}>)"

    def atom(self, ignore_case: bool) -> tuple[str, bool]:
        """One character, set, group or anchor, and whether it is an assertion, which has no length."""
        character = self.next()
        if character == "(":
            return self.group(ignore_case)
        if character == "[":
            return self.bracket(ignore_case), False
        if character == ".":
            return r"[^\n]", False
        if character in "^$":  # of a line
            return (r"(?<![^\n])" if character == "^" else r"(?![^\n])"), True
        if character == "\\":
            escape = self.next()
            if escape in ANCHORS:
                return ANCHORS[escape], True
            source, is_literal = self.escaped(escape, ignore_case)
            if not is_literal:
                return source, False
            character = source
        elif character in "*+?{":
            raise self.unsupported(f"the quantifier {character} after nothing")
        return self.literal(character, ignore_case), False

    def group(self, ignore_case: bool) -> tuple[str, bool]:
        """A group after its opening parenthesis. No group is captured, since there are no backreferences."""
        kind = ":"
        if self.take("?"):
            kinds = ("<=", "<!", ":", "=", "!", ">", "i:")
            kind = next((kind for kind in kinds if self.take(kind)), "")
            if not kind:
                raise self.unsupported(f"the group (?{self.pattern[self.at : self.at + 2]}")
        source = self.alternatives(ignore_case or kind == "i:")
        if not self.take(")"):
            raise self.unsupported("a group without an end")
        if kind == ">":
            return self.atomic(source), False
        return GROUPS[kind.lstrip("i")] + source + ")", kind in ("=", "!", "<=", "<!")

    def escaped(self, escape: str, ignore_case: bool, sets: dict[str, str] = SETS) -> tuple[str, bool]:
        r"""What follows a backslash: the translation of a set such as `\s`, or the one character that it stands for."""
        if escape in "pP":
            return self.property(escape, ignore_case), False
        if escape in sets:
            if ignore_case and escape not in "sSdDhH":
                raise self.unsupported(f"\\{escape} without case")
            return sets[escape], False
        if escape in ESCAPES:
            return {"a": "\x07", "e": "\x1b"}.get(escape) or f"\\{escape}".encode().decode("unicode_escape"), True
        if escape in "xu":
            return self.code_point(escape), True
        if escape.isalnum() or not escape.isascii():
            raise self.unsupported(f"\\{escape}")
        return escape, True

    def property(self, escape: str, ignore_case: bool) -> str:
        r"""A property such as `\p{L}`, after its letter."""
        name = ""
        if self.take("{"):
            name, _, _ = self.pattern[self.at :].partition("}")
            self.at += len(name) + 1
        plain = name.removeprefix("^")
        known = plain if plain in CATEGORIES else f"Script={plain}" if plain in SCRIPTS else None
        if known is None or ignore_case:
            raise self.unsupported(f"\\{escape}{{{name}}}{' without case' if ignore_case else ''}")
        is_negated = (escape == "P") != (plain != name)
        return f"\\{'P' if is_negated else 'p'}{{{known}}}"

    def code_point(self, escape: str) -> str:
        r"""The character of `\x41`, `\x{41}` or `\u0041`, after its letter."""
        if escape == "x" and self.take("{"):
            digits, _, _ = self.pattern[self.at :].partition("}")
            self.at += len(digits) + 1
        else:
            length = 2 if escape == "x" else 4
            digits = self.pattern[self.at : self.at + length]
            self.at += length
        try:
            code_point = int(digits, 16)
            character = chr(code_point)
        except (ValueError, OverflowError):
            raise self.unsupported(f"\\{escape}{digits}") from None
        if escape == "x" and len(digits) == 2 and code_point > 0x7F:  # a byte, not a character
            raise self.unsupported(f"\\x{digits}")
        return character

    def literal(self, character: str, ignore_case: bool) -> str:
        variants = self.variants(character, ignore_case)
        if len(variants) == 1:
            return _escape(character, RESERVED)
        return "[" + "".join(_escape(variant, RESERVED_INSIDE) for variant in variants) + "]"

    def variants(self, character: str, ignore_case: bool) -> list[str]:
        """The characters that a character equals, without case or with it."""
        if not ignore_case:
            return [character]
        if not character.isascii():
            raise self.unsupported(f"{character!r} without case")
        lower, upper = character.lower(), character.upper()
        return list(dict.fromkeys([lower, upper, *SAME_WITHOUT_CASE.get(lower, "")]))

    def bracket(self, ignore_case: bool) -> str:
        """A set in brackets, after the opening one; with `&&` between parts, their intersection."""
        negation = "^" if self.take("^") else ""
        parts = [""]
        if self.peek("]"):
            raise self.unsupported("an empty set of characters")
        while not self.take("]"):
            if self.take("&&"):
                parts.append("")
            else:
                parts[-1] += self.member(ignore_case)
        if len(parts) == 1:
            return f"[{negation}{parts[0]}]"
        return f"[{negation}{'&&'.join(f'[{part}]' for part in parts)}]"

    def member(self, ignore_case: bool) -> str:
        """A character, range or set in brackets."""
        if self.peek("[:"):
            raise self.unsupported("a POSIX bracket")
        if self.take("["):
            return self.bracket(ignore_case)
        first, is_literal = self.bracket_character(ignore_case)
        if not is_literal:
            return first
        if not self.peek("-") or self.peek("-]"):
            return "".join(_escape(variant, RESERVED_INSIDE) for variant in self.variants(first, ignore_case))
        self.at += 1
        last, is_literal = self.bracket_character(ignore_case)
        if not is_literal or ignore_case or (self.peek("-") and not self.peek("-]")):
            raise self.unsupported(f"a range from {first!r} that it does not end, or that ignores case")
        return f"{_escape(first, RESERVED_INSIDE)}-{_escape(last, RESERVED_INSIDE)}"

    def bracket_character(self, ignore_case: bool) -> tuple[str, bool]:
        character = self.next()
        return self.escaped(self.next(), ignore_case, SETS_INSIDE) if character == "\\" else (character, True)


def _escape(character: str, reserved: set[str]) -> str:
    """A character as JavaScript's regular expressions write it."""
    if character in reserved:
        return f"\\{character}"
    visible = character.isprintable() and (character == " " or not character.isspace())
    return character if visible else f"\\u{{{ord(character):X}}}"
