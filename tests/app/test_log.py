"""Lines of a log: what is in them, and what never is."""

import logging

import orjson
import pytest

from app import log
from app.log import JsonLine, PlainLine


def record(message: str = "done", error: BaseException | None = None, **fields: object) -> logging.LogRecord:
    seen = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("safemargin.api", logging.INFO, "file.py", 1, message, (), seen)
    made.fields = fields
    return made


@pytest.fixture
def refused() -> BaseException:
    """An error that quotes what it could not handle, and says so of another one."""

    def fail() -> None:
        try:
            int("a pair's text")
        except ValueError as error:
            raise RuntimeError("about a pair's text") from error

    with pytest.raises(RuntimeError) as raised:
        fail()
    return raised.value


def test_a_line_is_an_object_with_what_happened_and_to_which_request(monkeypatch: pytest.MonkeyPatch) -> None:
    log.request_id.set("7f")
    line = orjson.loads(JsonLine().format(record("request", status=200)))
    log.request_id.set("")
    assert (line["level"], line["logger"], line["message"]) == ("info", "safemargin.api", "request")
    assert (line["request_id"], line["status"]) == ("7f", 200)
    assert line["time"].endswith("+00:00")


def test_what_has_to_do_with_no_request_names_none() -> None:
    assert "request_id" not in orjson.loads(JsonLine().format(record()))


def test_a_message_of_several_lines_is_one_line() -> None:
    assert "\n" not in JsonLine().format(record("one\ntwo"))


def test_people_read_the_same_in_plain_words() -> None:
    assert PlainLine().format(record("request", status=200)).endswith(" INFO safemargin.api request status=200")


def test_a_trace_says_where_errors_arose_and_not_what_they_said(refused: BaseException) -> None:
    line = JsonLine().format(record("failed", refused))
    trace = orjson.loads(line)["trace"]
    assert [step for step in trace if ":" not in step] == ["RuntimeError", "ValueError"]
    assert all("test_log.py" in step for step in trace if ":" in step)
    assert "text" not in line.replace("test_log", "")
