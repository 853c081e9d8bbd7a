"""A service without a network: files, jobs and results as the API promises them, and faults on demand."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

MADE = {"model": "tiny", "direction": "kind"}


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)


class Cut(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body whose connection breaks at its end, or after `length` bytes."""

    def __init__(self, content: bytes, length: int) -> None:
        self._pieces = [content[i : i + 7] for i in range(0, length, 7)]
        self._pieces[-1:] = [self._pieces[-1][: length - 7 * (len(self._pieces) - 1)]] if self._pieces else []

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        raise httpx.ReadError("cut off")

    async def __aiter__(self) -> Any:
        for piece in self._pieces:
            yield piece
        raise httpx.ReadError("cut off")


@dataclass
class Service:
    """Annotates a line by its number.

    Attributes:
        pace: rows that become ready with every look at a job.
        faults: what the next requests meet instead of an answer.
        cuts: after how many bytes the next answers break off, by the end of their path.
        asked: method and path of every request.
        uploads: contents of the files.
        provenance: what it says made the rows.
    """

    pace: int = 10**9
    faults: list[httpx.Response | Exception | type[BaseException]] = field(default_factory=list)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    asked: list[httpx.Request] = field(default_factory=list)
    uploads: list[bytes] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=lambda: dict(MADE))
    on_look: Callable[[dict[str, Any]], object] = lambda job: None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, httpx.Response):
                return fault
            raise fault
        answer = self._answer(request)
        for end, lengths in self.cuts.items():
            if request.url.path.endswith(end) and lengths:
                return httpx.Response(200, stream=Cut(answer.content, lengths.pop(0)))
        return answer

    def paths(self) -> list[str]:
        """What was asked."""
        return [f"{request.method} {request.url.path}" for request in self.asked]

    def lines(self, number: int = -1) -> list[bytes]:
        """Lines of an uploaded file."""
        return self.uploads[number].split(b"\n")

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path, query = request.url.path, request.url.params
        if path == "/files":
            return self._upload(request.read())
        if path == "/jobs":
            return self._submit(json.loads(request.read()))
        if not (found := re.fullmatch(r"/jobs/([^/]+)(/results|/errors)?", path)) or found[1] not in self.jobs:
            return problem(404, "no such job")
        return self._answer_about(self.jobs[found[1]], f"{request.method} {found[2] or ''}", query)

    def _answer_about(self, job: dict[str, Any], what: str, query: httpx.QueryParams) -> httpx.Response:
        if what == "GET ":
            return self._look(job)
        if what == "DELETE ":
            assert query["cancel"] == "true", "else a job that is over would lose its results"
            if job["status"] != "in_progress":
                return problem(409, "the job is over; nothing was deleted")
            job["status"] = "cancelled"
            return httpx.Response(204)
        if what == "GET /errors":
            bad = job["bad"] if job["status"] != "in_progress" else []
            return ndjson([row for row in bad if row["line"] > int(query["cursor"])])
        if query["type"] == "parquet":
            return httpx.Response(200, content=b"PAR1 " + query["format"].encode() + b" PAR1")
        rows = [row for row in job["rows"][: job["ready"]] if row["line"] > int(query["cursor"])]
        return ndjson([row if query["format"] == "raw" else trainer_row(job, row) for row in rows])

    def _upload(self, content: bytes) -> httpx.Response:
        self.uploads.append(content)
        count = sum(1 for line in content.split(b"\n") if line.strip())
        about = {"format": "plain", "rows": count, "bad_rows": 0, "tokens": 9, "created_at": 0, "expires_at": 9}
        return httpx.Response(201, json={"id": f"f{len(self.uploads)}", "bytes": len(content), **about})

    def _submit(self, order: dict[str, Any]) -> httpx.Response:
        number = int(order["file"][1:])
        if number > len(self.uploads):
            return problem(404, "no such file")
        rows, bad, texts = [], [], {}
        for line, text in enumerate(self.uploads[number - 1].split(b"\n"), 1):
            if not text.strip():
                continue
            texts[line] = json.loads(text)
            if "chosen" in texts[line]:
                entry = {"id": str(line), "margin": line / 2}
                rows.append({"line": line, "annotation": entry, "provenance": self.provenance})
            else:
                bad.append({"line": line, "id": str(line), "code": "missing_field", "detail": "is missing"})
        job_id = f"j{len(self.jobs) + 1}"
        job = {"id": job_id, "status": "in_progress", "ready": 0, "rows": rows, "bad": bad, "texts": texts}
        conversational = any(isinstance(text["prompt"], list) for text in texts.values())
        self.jobs[job_id] = job | {"order": order, "conversational": conversational}
        return httpx.Response(202, json=public(job), headers={"Location": f"/jobs/{job_id}"})

    def _look(self, job: dict[str, Any]) -> httpx.Response:
        if job["status"] == "in_progress":
            job["ready"] += self.pace
            if job["ready"] >= len(job["rows"]):
                job["status"] = "completed"
        self.on_look(job)
        return httpx.Response(200, json=public(job))


def public(job: dict[str, Any]) -> dict[str, Any]:
    """A job as the API shows it."""
    ready = min(job["ready"], len(job["rows"]))
    failed = len(job["bad"]) if ready == len(job["rows"]) else 0
    counts = {"total": len(job["rows"]) + len(job["bad"]), "completed": ready, "failed": failed}
    places = {name: f"/jobs/{job['id']}/{name}" for name in ("results", "errors")}
    fixed = {"kind": "annotate", "created_at": 0, "expires_at": 9, **places}
    return {"id": job["id"], "status": job["status"], "error": job.get("error"), "request_counts": counts, **fixed}


def trainer_row(job: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A row for a trainer, which does not say its line; where one prompt of the file is a conversation, all are."""
    prompt = job["texts"][row["line"]]["prompt"]
    if isinstance(prompt, str) and job["conversational"]:
        prompt = [{"role": "user", "content": prompt}]
    return {"prompt": prompt, "margin": row["annotation"]["margin"]}


def ndjson(rows: list[dict[str, Any]]) -> httpx.Response:
    """Rows as an answer; text stays as it is, whatever separators it holds."""
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    return httpx.Response(200, content=content, headers={"Content-Type": "application/x-ndjson"})


def problem(status: int, detail: str, **headers: str) -> httpx.Response:
    """An error as the API answers it."""
    body = {"title": "Refused", "status": status, "detail": detail}
    return httpx.Response(status, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})


def dataset(count: int, bad: tuple[int, ...] = (), prompt: Any = "Why\u2028?") -> bytes:
    """A file of pairs; the text holds a separator that is no end of a line. Lines in `bad` lack a field."""
    pair = {"prompt": prompt, "chosen": "Yes.", "rejected": "No."}
    rows = [{"prompt": prompt} if line in bad else pair for line in range(1, count + 1)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
