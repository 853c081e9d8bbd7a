"""A Label Studio without a network, and a service that annotates what comes from it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.schemas.directions import DirectionCard, SiteCard
from tests.app.client.service import Service

PERSONAL, LEGACY = "head.body.signature", "0123abcd"
DIGESTS = {"kind": "sha256:0123abcd", "other": "sha256:4567cdef"}


def version(direction: str = "kind") -> str:
    """What predictions of a direction are called."""
    return f"{direction}@{DIGESTS[direction].removeprefix('sha256:')} tiny"


def task(number: int, answer1: str = "Ask a locksmith.", answer2: str = "No.", **data: Any) -> dict[str, Any]:
    """A task; the longer answer is the safer one here."""
    shown = {"prompt": f"Question {number}?", "answer1": answer1, "answer2": answer2} | data
    return {"id": number, "data": shown, "predictions": [], "annotations": []}


@dataclass
class FakeStudio:
    """One project.

    Attributes:
        tasks: its tasks.
        label_config: its labelling config.
        shown: the model version that it shows.
        page: tasks on a page at most, whatever is asked for.
        holds: requests that an access token is good for.
        faults: what the next requests meet instead of an answer.
        lost: whether the answer to the next import is lost after it was done.
        asked: every request.
    """

    tasks: list[dict[str, Any]]
    label_config: str
    shown: str = ""
    page: int = 100
    holds: int = 10**9
    faults: list[httpx.Response | BaseException] = field(default_factory=list)
    lost: bool = False
    asked: list[httpx.Request] = field(default_factory=list)
    _access: int = 0
    _left: int = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, httpx.Response):
                return fault
            raise fault
        if request.url.path == "/api/token/refresh/":
            return self._refresh(json.loads(request.read())["refresh"])
        if not self._known(request.headers["Authorization"]):
            return refused(401, "Given token not valid for any token type")
        return self._answer(request)

    def predictions(self) -> dict[int, list[dict[str, Any]]]:
        """Predictions by task."""
        return {one["id"]: one["predictions"] for one in self.tasks}

    def _refresh(self, token: str) -> httpx.Response:
        if token != PERSONAL:
            return refused(401, "Token is invalid")
        self._access, self._left = self._access + 1, self.holds
        return httpx.Response(200, json={"access": f"access-{self._access}"})

    def _known(self, sent: str) -> bool:
        self._left -= 1
        return sent == f"Token {LEGACY}" or (sent == f"Bearer access-{self._access}" and self._left >= 0)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        what = f"{request.method} {request.url.path}"
        about = {"id": 7, "title": "Locks", "label_config": self.label_config, "model_version": self.shown}
        if what == "GET /api/projects/7":
            return httpx.Response(200, json=about)
        if what == "PATCH /api/projects/7":
            self.shown = json.loads(request.read())["model_version"]
            return httpx.Response(200, json=about)
        if what == "GET /api/tasks":
            return self._page_of(request.url.params)
        if what == "POST /api/projects/7/import/predictions":
            return self._import(json.loads(request.read()))
        return refused(404, "No Project matches the given query.")

    def _page_of(self, query: httpx.QueryParams) -> httpx.Response:
        assert (query["project"], query["fields"]) == ("7", "all")
        found = self.tasks
        if "query" in query:
            (item,) = json.loads(query["query"])["filters"]["items"]
            assert (item["filter"], item["operator"]) == ("filter:tasks:id", "in")
            found = [one for one in found if item["value"]["min"] <= one["id"] <= item["value"]["max"]]
        size = min(int(query["page_size"]), self.page)
        start = (int(query["page"]) - 1) * size
        return httpx.Response(200, json={"total": len(found), "tasks": found[start : start + size]})

    def _import(self, predictions: list[dict[str, Any]]) -> httpx.Response:
        """Take those whose regions the labelling config knows; the others are only logged, as the real one does."""
        tasks, created = {one["id"]: one for one in self.tasks}, 0
        for prediction in predictions:
            names = [(region["from_name"], region["to_name"]) for region in prediction["result"]]
            if all(f'name="{name}"' in self.label_config and to_name in self.label_config for name, to_name in names):
                tasks[prediction["task"]]["predictions"].append(prediction)
                created += 1
        if self.lost:
            self.lost = False
            raise httpx.ReadTimeout("no answer")
        return httpx.Response(201, json={"created": created})


def refused(status: int, detail: str) -> httpx.Response:
    """An error as Label Studio answers it."""
    return httpx.Response(status, json={"status_code": status, "version": "1.23.2", "detail": detail})


@dataclass
class Annotator(Service):
    """Prefers the longer answer; a prompt that says so is too long."""

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/directions":
            cards = [card(name).model_dump() for name in DIGESTS]
            return httpx.Response(200, json={"directions": cards, "default": "kind"})
        return super()._answer(request)

    def _submit(self, order: dict[str, Any]) -> httpx.Response:
        answer = super()._submit(order)
        job = self.jobs[f"j{len(self.jobs)}"]
        rows, job["rows"] = job["rows"], []
        for row in rows:
            text = job["texts"][row["line"]]
            if "too long" in text["prompt"]:
                problem = {"line": row["line"], "id": text["id"], "code": "too_long", "detail": "too many tokens"}
                job["bad"].append(problem)
            else:
                made = {"annotation": annotation(text), "provenance": provenance(order["direction"]) | self.provenance}
                job["rows"].append(row | made)
        return answer


def annotation(text: dict[str, Any]) -> dict[str, Any]:
    margin = (len(text["chosen"]) - len(text["rejected"])) / 10
    return {
        "id": text["id"],
        "margin": margin,
        "probability": 0.75 if margin > 0 else 0.25,
        "level": None,
        "label_conflict": margin < 0,
        "raw": {"margin": margin, "chosen": margin, "rejected": 0},
        "truncated": False,
        "tokens": {"prompt": 1, "chosen": 1, "rejected": 1},
    }


def provenance(direction: str) -> dict[str, Any]:
    made = {"model": "tiny", "model_revision": "r", "template": "t", "layers": [1], "pooling": "mean"}
    exact = {"calibrated": True, "unreliable": False, "dtype": "float32", "version": "0"}
    return made | exact | {"direction": direction, "direction_digest": DIGESTS[direction]}


def card(name: str) -> DirectionCard:
    made = {"id": name, "digest": DIGESTS[name], "model": "tiny", "model_revision": "r", "template": "t"}
    rest = {"slope": 1.0, "recipe": "test", "unreliable": False, "created": "", "version": "0"}
    return DirectionCard(sites=[SiteCard(layer=1, pooling="mean")], **made, **rest)


def ids_of(uploads: list[bytes]) -> Iterator[list[int]]:
    """The tasks in every uploaded file."""
    for content in uploads:
        yield [int(json.loads(line)["id"]) for line in content.splitlines()]
