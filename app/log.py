"""Logs: a line for each event, JSON where machines read them, plain at a terminal; no word of what users sent.

The id of a request is in every line that has to do with it, wherever that is written: the API sets it, the queue
carries it with the job, the lane that works on the job sets it again.
"""

import logging
import sys
import threading
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being worked on; empty where it is none."""

_OWN = ("safemargin", "app", "workers", "cli")
_EACH_BATCH = "workers.batcher"


def set_up() -> None:
    """Send what this process logs to stderr: its own events from INFO on, those of libraries from WARNING on.

    So go warnings, and errors that nobody catches: Python itself would print their messages, which may quote a pair.
    """
    terminal = sys.stderr.isatty()
    handler = logging.StreamHandler()
    handler.setFormatter(PlainLine() if terminal else JsonLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in _OWN:
        logging.getLogger(name).setLevel(logging.INFO)
    if terminal:
        logging.getLogger(_EACH_BATCH).setLevel(logging.WARNING)  # many a second are no use to somebody who watches
    logging.captureWarnings(True)
    logging.getLogger("asyncio").addFilter(_first_line)
    sys.excepthook = lambda _kind, error, _trace: _uncaught(error)
    threading.excepthook = lambda raised: _uncaught(raised.exc_value)


def _first_line(record: logging.LogRecord) -> bool:
    """Of what asyncio says of a task that failed: the others show the task, and with it the message of its error."""
    record.msg, record.args = record.getMessage().partition("\n")[0], ()
    return True


def _uncaught(error: BaseException | None) -> None:
    if not isinstance(error, SystemExit):  # which ends a thread and says nothing
        logging.getLogger("safemargin").error("nobody caught an error", exc_info=error)


def event(log: logging.Logger, what: str, **fields: Any) -> None:
    """Log something that happened, with figures and names of ours that say more."""
    log.info(what, extra={"fields": fields})


class JsonLine(logging.Formatter):
    """A record as an object of JSON on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        return orjson.dumps(line | _more(record), default=str).decode()


class PlainLine(logging.Formatter):
    """The same for people: time, level, logger, message, and the rest by name."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        rest = "".join(f" {name}={value}" for name, value in _more(record).items())
        return f"{time} {record.levelname} {record.name} {record.getMessage()}{rest}"


def _more(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = {"request_id": own} if (own := request_id.get()) else {}
    found |= getattr(record, "fields", {})
    if record.exc_info and record.exc_info[1]:
        found["trace"] = trace(record.exc_info[1])
    return found


def trace(error: BaseException) -> list[str]:
    """What an error, its parts and those that led to it were, and where: their messages may quote a pair."""
    found: list[str] = []
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if id(one) in seen:  # an error may be its own cause
            continue
        seen.add(id(one))
        frames = traceback.extract_tb(one.__traceback__)
        found += [type(one).__name__, *(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)]
        cause = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        left += [cause] if cause else []
        left += one.exceptions[::-1] if isinstance(one, BaseExceptionGroup) else []
    return found
