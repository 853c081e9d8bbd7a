"""What stands between fences in a page of Markdown."""

import re
from dataclasses import dataclass

COMMANDS = frozenset({"console", "python"})
ANSWERS = frozenset({"json", "jsonl", "http", "text"})
_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Some lines of one language.

    Attributes:
        language: what the fence says: `console`, `json`, …
        text: the lines.
        line: of the page, where the fence is.
    """

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Example:
    """Something to run, and what the page says comes of it."""

    command: Block
    answer: Block | None


class PageWrong(AssertionError):
    """A page that says what is not so."""


def blocks(markdown: str) -> list[Block]:
    """All fenced blocks in their order."""
    return [Block(f[1], f[2], markdown.count("\n", 0, f.start()) + 1) for f in _FENCED.finditer(markdown)]


def examples(markdown: str) -> list[Example]:
    """Commands with the answers that follow them.

    Blocks of other languages than those of `COMMANDS` and `ANSWERS` are for people alone.

    Raises:
        PageWrong: an answer follows no command; or nobody says what `curl` is answered.
    """
    found: list[Example] = []
    before: Block | None = None
    for block in blocks(markdown):
        if block.language in COMMANDS:
            found.append(Example(block, None))
        elif block.language in ANSWERS:
            if before is None or before.language not in COMMANDS:
                raise PageWrong(f"line {block.line}: an answer to no command")
            found[-1] = Example(before, block)
        before = block
    for example in found:
        if example.answer is None and re.search(r"^curl\b", example.command.text, re.MULTILINE):
            raise PageWrong(f"line {example.command.line}: what does it answer?")
    return found
