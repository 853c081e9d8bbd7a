"""Pages are read as people read them: a command, and under it what it answers."""

import pytest

from tests.docs.blocks import PageWrong, blocks, examples

PAGE = """Do this:

```console
safemargin version
```

It says

```text
0.1.0
```

```sh
make demo
```

```python
print(1)
```
"""


def test_blocks_come_with_their_language_and_line() -> None:
    assert [(block.language, block.text, block.line) for block in blocks(PAGE)][:2] == [
        ("console", "safemargin version\n", 3),
        ("text", "0.1.0\n", 9),
    ]


def test_an_answer_belongs_to_the_command_before_it() -> None:
    first, second = examples(PAGE)
    assert first.answer is not None
    assert first.answer.text == "0.1.0\n"
    assert (second.command.language, second.answer) == ("python", None)


def test_an_answer_without_a_command_is_a_mistake() -> None:
    with pytest.raises(PageWrong, match="line 1"):
        examples("```json\n{}\n```\n")
    with pytest.raises(PageWrong, match="line 4"):
        examples("```sh\nmake demo\n```\n```json\n{}\n```\n")


def test_a_request_whose_answer_nobody_says_is_a_mistake() -> None:
    with pytest.raises(PageWrong, match="what does it answer"):
        examples("```console\ncurl -s http://127.0.0.1:8000/livez\n```\n")
