"""Filters as people write them.

    year >= 2019 and lang in ("de", "en") and not exists(retracted) and title prefix "Graph"

    filter      = all { "or" all }
    all         = one { "and" one }
    one         = "not" one | "(" filter ")" | "exists" "(" field ")" | comparison
    comparison  = field ( "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" ) value
                | field [ "not" ] "in" "(" [ value { "," value } ] ")"
                | field "prefix" string
                | value ( "<" | "<=" ) field [ ( "<" | "<=" ) value ]
    field       = letter or "_", then letters, digits, "_", ".", "-"; anything else in `backticks`
    value       = "string" | 'string' | 12 | -1.5e3 | true | false

Words may be in capitals. Strings take JSON's escapes. `not` binds closest, then `and`, then `or`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from colbert_core.errors import QueryError
from colbert_core.filters.expression import (
    KEYWORDS,
    MAX_DEPTH,
    And,
    Eq,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Prefix,
    Range,
    Value,
)

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<quoted>`(?:[^`\\]|\\.)+`)
    | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | (?P<word>[^\W\d][\w.\-]*)
    | (?P<op><=|>=|!=|==|=|<|>)
    | (?P<mark>[(),])
    | (?P<end>$)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(
    r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
    r"|u([0-9a-fA-F]{4})|(.))",
    re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_OPERATORS = ("=", "==", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    @property
    def word(self) -> str:
        """A keyword, a mark or an operator, to compare with; else nothing."""
        if self.kind == "word":
            return self.text.lower() if self.text.lower() in KEYWORDS else ""
        return self.text if self.kind in ("mark", "op") else ""


def parse_filter(text: str) -> Filter:
    """Read a filter.

    Raises:
        QueryError: it is none; the message shows the place, and says what was expected there.
    """
    return _Parser(text).parse()


class _Parser:
    """Recursive descent over the tokens of one filter."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._next = 0
        self._depth = 0

    def parse(self) -> Filter:
        if self._peek.kind == "end":
            raise QueryError(
                'the filter is empty: write one, such as `year >= 2019 and lang in ("de", "en")`, '
                "or leave it out"
            )
        found = self._any()
        if self._peek.kind != "end":
            raise self._expected("`and`, `or`, or the end")
        return found

    # ------------------------------------------------------------ the grammar

    def _any(self) -> Filter:
        found = [self._all()]
        while self._take("or"):
            found.append(self._all())
        return found[0] if len(found) == 1 else Or(tuple(found))

    def _all(self) -> Filter:
        found = [self._one()]
        while self._take("and"):
            found.append(self._one())
        return found[0] if len(found) == 1 else And(tuple(found))

    def _one(self) -> Filter:
        self._depth += 1
        if self._depth > 2 * MAX_DEPTH:
            raise self._wrong(self._peek.at, f"this lies more than {2 * MAX_DEPTH} levels deep")
        try:
            if self._take("not"):
                return Not(self._one())
            if self._take("("):
                inside = self._any()
                self._need(")", "`)`")
                return inside
            if self._take("exists"):
                self._need("(", "`(` and a field")
                field = self._field()
                self._need(")", "`)`")
                return Exists(field)
            if self._is_value(self._peek):
                return self._value_first()
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Filter:
        field = self._field(or_else=", `not`, `exists(…)` or `(`")
        if self._take("not"):
            self._need("in", "`in`")
            return Not(In(field, self._values()))
        if self._take("in"):
            return In(field, self._values())
        if self._take("prefix"):
            if self._peek.kind != "string":
                raise self._expected("a string in quotes")
            return Prefix(field, str(self._value()))
        operator = self._peek.word
        if operator not in _OPERATORS:
            raise self._expected("one of = != < <= > >= in prefix")
        self._next += 1
        value = self._value()
        if operator in ("=", "=="):
            return Eq(field, value)
        if operator == "!=":
            return Not(Eq(field, value))
        if operator in ("<", "<="):
            return Range(field, high=value, below=operator == "<")
        return Range(field, low=value, above=operator == ">")

    def _value_first(self) -> Filter:
        """`2010 <= year < 2020`, or the first half of it."""
        low = self._value()
        above = self._bound()
        field = self._field()
        if self._peek.word in _OPERATORS:
            below = self._bound()
            return Range(field, low, self._value(), above, below)
        return Range(field, low, None, above)

    def _bound(self) -> bool:
        """Whether the end of a range is left out."""
        if self._peek.word not in ("<", "<="):
            raise self._expected("`<` or `<=`, as in `2010 <= year < 2020`")
        self._next += 1
        return self._tokens[self._next - 1].text == "<"

    def _values(self) -> tuple[Value, ...]:
        self._need("(", '`(` and values, as in `("de", "en")`')
        values: list[Value] = []
        if self._take(")"):
            return ()
        values.append(self._value())
        while not self._take(")"):
            self._need(",", "`,` or `)`")
            values.append(self._value())
        return tuple(values)

    def _field(self, or_else: str = "") -> str:
        token = self._peek
        if token.kind == "quoted":
            self._next += 1
            return self._unescape(token)
        if token.kind != "word" or token.word:
            hint = f"; a field of that name goes in backticks: `{token.text}`"
            raise self._expected(f"a field{or_else}", hint if token.kind == "word" else "")
        self._next += 1
        return token.text

    def _value(self) -> Value:
        token = self._peek
        if not self._is_value(token):
            hint = f'; a string goes in quotes: "{token.text}"' if token.kind == "word" else ""
            raise self._expected("a string, a number, true or false", hint)
        self._next += 1
        if token.kind == "string":
            return self._unescape(token)
        if token.kind == "word":
            return token.word == "true"
        return self._number(token)

    def _number(self, token: _Token) -> int | float:
        if re.fullmatch(r"[-+]?\d+", token.text):
            if len(token.text) > 20 or not -(2**63) <= int(token.text) < 2**63:
                raise self._wrong(token.at, "this number does not fit in 64 bits")
            return int(token.text)
        if not math.isfinite(value := float(token.text)):
            raise self._wrong(token.at, "this number is too large")
        return value

    # ------------------------------------------------------------ tokens

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, word: str) -> bool:
        found = self._peek.word == word
        self._next += found
        return found

    def _need(self, word: str, name: str) -> None:
        if not self._take(word):
            raise self._expected(name)

    @staticmethod
    def _is_value(token: _Token) -> bool:
        return token.kind in ("string", "number") or token.word in ("true", "false")

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while True:
            match = _TOKEN.match(self._text, at)
            if match is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                what = "this is no part of a filter"
                if self._text[at] in "\"'`":
                    what = f"the quote {self._text[at]} is not closed"
                elif self._text[at].isdigit() or self._text[at] in "+-.":
                    what = "this is not a number; a string goes in quotes"
                raise self._wrong(at, what)
            kind = match.lastgroup or ""
            tokens.append(_Token(kind, match[kind], match.start(kind)))
            at = match.end()
            if kind == "end":
                return tokens

    def _unescape(self, token: _Token) -> str:
        def one(match: re.Match[str]) -> str:
            high, low, four, plain = match.groups()
            if high:
                return bytes.fromhex(high + low).decode("utf-16-be")
            if four:
                if "d800" <= four.lower() <= "dfff":
                    raise self._wrong(token.at, f"\\u{four} is half of a character")
                return chr(int(four, 16))
            if plain in _ESCAPES:
                return _ESCAPES[plain]
            if plain.isalnum():
                raise self._wrong(token.at, f"\\{plain} means nothing; a backslash is \\\\")
            return plain

        return _ESCAPE.sub(one, token.text[1:-1])

    def _expected(self, what: str, hint: str = "") -> QueryError:
        token = self._peek
        found = "the filter ends here" if token.kind == "end" else f"found {token.text!r}"
        return self._wrong(token.at, f"expected {what}, but {found}{hint}")

    def _wrong(self, at: int, what: str) -> QueryError:
        """The error, with the place in sight."""
        before, after = self._text[max(0, at - 30) : at], self._text[at : at + 30]
        lead = "…" if at > 30 else ""
        more = "…" if at + 30 < len(self._text) else ""
        return QueryError(f"filter, character {at + 1}: {what}: {lead}{before}⟨here⟩{after}{more}")
