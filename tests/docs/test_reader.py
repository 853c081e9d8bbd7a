"""The reader believes nothing: a page that is right passes, one that is wrong in one place does not."""

from pathlib import Path

import pytest

from tests.docs.blocks import PageWrong
from tests.docs.reader import Reader

PAGE = """```console
echo '{"id": "x7", "count": 3}' > made.json
cat made.json
```

```json
{"id": "THING", "count": 3}
```

```python
from pathlib import Path

print(len(Path("made.json").read_text()), "THING")
```

```text
25 x7
```

```console
safemargin version
test -f examples/pairs.jsonl
```

```text
0.1.0
```
"""


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    (tmp_path / "work").mkdir()
    return Reader(tmp_path / "work", tmp_path)


def test_a_page_that_is_right(reader: Reader) -> None:
    reader.read(PAGE)


@pytest.mark.parametrize(
    ("right", "wrong", "line"),
    [
        ('"count": 3}\n```', '"count": 4}\n```', 6),
        ("25 x7", "26 x7", 16),
        ("cat made.json", "cat gone.json", 1),
        ("cat made.json", "false\ncat made.json", 1),
        ("import Path", "import Pfad", 10),
    ],
)
def test_a_page_that_is_wrong(reader: Reader, right: str, wrong: str, line: int) -> None:
    with pytest.raises(PageWrong, match=f"^line {line}: "):
        reader.read(PAGE.replace(right, wrong))


def test_a_service_that_does_not_start_is_told(reader: Reader) -> None:
    with pytest.raises(PageWrong, match=r"does not start.*/nowhere"):
        reader.read("```console\nSAFEMARGIN_MODEL=/nowhere safemargin serve\n```\n")
