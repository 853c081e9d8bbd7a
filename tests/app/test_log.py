"""Lines of a log: what is in them, and what never is."""

import logging
import subprocess
import sys

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


def test_a_trace_ends_also_where_an_error_is_its_own_cause() -> None:
    error = ValueError()
    error.__cause__ = error
    assert log.trace(error) == ["ValueError"]


def test_a_trace_names_the_errors_of_a_group_and_what_led_to_it() -> None:
    group = ExceptionGroup("several", [ValueError(), KeyError()])
    group.__cause__ = OSError()
    assert log.trace(group) == ["ExceptionGroup", "ValueError", "KeyError", "OSError"]


def test_what_nobody_catches_is_a_line_as_well_and_nothing_of_its_text() -> None:
    code = """
import asyncio, threading, warnings
from app import log
log.set_up()
def fail(): raise ValueError("a pair's text")
async def fail_too(): fail()
async def main():
    asyncio.create_task(fail_too())
    await asyncio.sleep(0)
thread = threading.Thread(target=fail)
thread.start()
thread.join()
asyncio.run(main())
warnings.warn("careful")
fail()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    lines = [orjson.loads(line) for line in ended.stderr.splitlines()]
    uncaught, asyncio = "nobody caught an error", "Task exception was never retrieved"
    assert [line["message"] for line in lines if "trace" in line] == [uncaught, asyncio, uncaught]
    assert all(line["trace"][0] == "ValueError" for line in lines if "trace" in line)
    (warning,) = [line for line in lines if "trace" not in line]
    assert "careful" in warning["message"]
    assert "text" not in ended.stderr
