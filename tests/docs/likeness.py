"""Comparing what was answered with what a page says.

`…` stands for whatever is there: for a value, for a part of a text, for further fields, elements or lines. A word in
capitals that is a text, or one step of a path, stands for what was answered there, and for the same from there on.
Numbers with a decimal point may be a little off, as other processors round otherwise.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

Names = dict[str, str]

_ANY, _REST = "\0any", "\0rest"
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,…]|[^"{}\[\]:,…]+')
_NAME = re.compile(r"(?:^|(?<=/))[A-Z][A-Z_]+(?=$|/)")
_ABSOLUTE, _RELATIVE = 0.1, 0.05


def filled_in(text: str, names: Names) -> str:
    """A text with the names that stand for something replaced by it."""
    return re.sub(r"\b[A-Z][A-Z_]+\b", lambda found: names.get(found[0], found[0]), text)


def differences(language: str, expected: str, got: str, names: Names) -> Iterator[str]:
    """Where an answer is not like what a page says; new names are kept in `names`."""
    compare: dict[str, Callable[[str, str, Names], Iterator[str]]] = {
        "json": _json,
        "jsonl": _lines,
        "http": _message,
        "text": _text,
    }
    return compare[language](expected, got, names)


def loosely(text: str) -> Any:
    """JSON in which `…` may stand for values, and for further fields or elements.

    Raises:
        ValueError: it is none.
    """
    made, inside, before = [], [""], ""
    for piece in _PIECE.findall(text):
        made.append(_stand_in(inside[-1], before) if piece == "…" else piece)
        if piece in ("{", "["):
            inside.append(piece)
        elif piece in ("}", "]"):
            inside.pop()
        before = piece.strip() or before
    return json.loads("".join(made))


def _stand_in(inside: str, before: str) -> str:
    """What stands for `…` after `before`, in an object, an array or nothing."""
    if inside == "{" and before != ":":
        return json.dumps(_REST) + ":0"
    return json.dumps(_REST if inside == "[" else _ANY)


def _json(expected: str, got: str, names: Names) -> Iterator[str]:
    try:
        answered = json.loads(got)
    except ValueError:
        yield f"no JSON: {got[:500]}"
        return
    yield from _compared(loosely(expected), answered, names, "")


def _lines(expected: str, got: str, names: Names) -> Iterator[str]:
    wanted, answered = expected.splitlines(), got.splitlines()
    more = wanted[-1:] == ["…"]
    wanted = wanted[:-1] if more else wanted
    if len(answered) < len(wanted) or (len(answered) > len(wanted) and not more):
        yield f"{len(answered)} lines: {got[:500]}"
        return
    for number, (line, answer) in enumerate(zip(wanted, answered, strict=False), 1):
        yield from (f"line {number}: {what}" for what in _json(line, answer, names))


def _message(expected: str, got: str, names: Names) -> Iterator[str]:
    """A status, those headers that the page names, and the body, if it says one."""
    (wanted, _, body), (head, _, answered) = expected.partition("\n\n"), got.replace("\r\n", "\n").partition("\n\n")
    (status, *fields), (status_got, *fields_got) = wanted.splitlines(), head.splitlines()
    if not re.fullmatch(_pattern(status), status_got.strip()):
        yield f"{status_got}: {answered[:500]}"
        return
    sent = dict(_field(line) for line in fields_got)
    for name, value in map(_field, fields):
        yield from _like(value, sent.get(name, "not sent"), names, name)
    if body.strip():
        yield from _json(body, answered, names)


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()


def _text(expected: str, got: str, names: Names) -> Iterator[str]:
    if not re.fullmatch(_pattern(filled_in(expected.strip(), names)), got.strip(), re.DOTALL):
        yield f"another text: {got[:2000]}"


def _compared(expected: Any, got: Any, names: Names, at: str) -> Iterator[str]:
    if expected == _ANY:
        return
    if isinstance(expected, dict) and isinstance(got, dict):
        yield from _fields(expected, got, names, at)
    elif isinstance(expected, list) and isinstance(got, list):
        yield from _elements(expected, got, names, at)
    elif isinstance(expected, str) and isinstance(got, str):
        yield from _like(expected, got, names, at)
    elif isinstance(expected, float) and isinstance(got, int | float) and not isinstance(got, bool):
        if abs(got - expected) > _ABSOLUTE + _RELATIVE * abs(expected):
            yield f"{at}: {got}"
    elif expected != got or isinstance(expected, bool) != isinstance(got, bool):
        yield f"{at}: {got!r}"[:500]


def _fields(expected: dict[str, Any], got: dict[str, Any], names: Names, at: str) -> Iterator[str]:
    for name in expected.keys() - got.keys() - {_REST}:
        yield f"{at}/{name}: is not there"
    for name in got.keys() - expected.keys() if _REST not in expected else ():
        yield f"{at}/{name}: is there"
    for name in [name for name in expected if name in got]:
        yield from _compared(expected[name], got[name], names, f"{at}/{name}")


def _elements(expected: list[Any], got: list[Any], names: Names, at: str) -> Iterator[str]:
    more = expected[-1:] == [_REST]
    wanted = expected[:-1] if more else expected
    if len(got) < len(wanted) or (len(got) > len(wanted) and not more):
        yield f"{at}: {len(got)} elements"
    for index, (one, other) in enumerate(zip(wanted, got, strict=False)):
        yield from _compared(one, other, names, f"{at}/{index}")


def _like(expected: str, got: str, names: Names, at: str) -> Iterator[str]:
    pattern, end = "", 0
    for name in _NAME.finditer(expected):
        known = name[0] in names
        pattern += _pattern(expected[end : name.start()])
        pattern += re.escape(names[name[0]]) if known else f"(?P<{name[0]}>[^/]+)"
        end = name.end()
    if found := re.fullmatch(pattern + _pattern(expected[end:]), got, re.DOTALL):
        names |= found.groupdict()
    else:
        yield f"{at}: {got!r}"[:500]


def _pattern(text: str) -> str:
    return ".*?".join(map(re.escape, text.split("…")))
