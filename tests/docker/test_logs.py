"""A request leaves its id, and nothing of its text, in the logs of the API and of the worker that answered it."""

from typing import Any

import httpx
import orjson
import pytest

from cli.stack import Stack

pytestmark = pytest.mark.real

TEXTS = ("How do I juggle aubergines?", "With both hands, zealously.", "Quixotically.")


def lines(stack: Stack, part: str) -> list[dict[str, Any]]:
    """What a part of the service has logged."""
    return [orjson.loads(line) for line in (stack.folder / f"{part}.log").read_bytes().splitlines()]


def of_request(stack: Stack, part: str, own: str) -> list[dict[str, Any]]:
    return [line for line in lines(stack, part) if own in (line.get("request_id"), *line.get("requests", ()))]


def post(stack: Stack, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{stack.url}{path}", json=body, headers=headers, timeout=60, trust_env=False)


def settled(stack: Stack, part: str, own: str, count: int) -> list[dict[str, Any]]:
    """The lines of a request once there are so many: the last is written after the answer has been given."""
    for _ in range(100):
        if len(found := of_request(stack, part, own)) >= count:
            return found
        httpx.get(f"{stack.url}/livez", trust_env=False)
    raise AssertionError((part, own, of_request(stack, part, own)))


def test_a_request_is_followed_from_http_through_the_queue_to_the_worker(stack: Stack) -> None:
    prompt, chosen, rejected = TEXTS
    pair = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    answer = post(stack, "/annotate", {"pairs": [pair]}, **{"X-Request-ID": "labeller-7"})
    assert answer.headers["X-Request-ID"] == "labeller-7"
    (request,) = settled(stack, "api", "labeller-7", 1)
    batch, chunk = sorted(settled(stack, "worker-0", "labeller-7", 2), key=lambda line: str(line["message"]))
    assert (request["message"], batch["message"], chunk["message"]) == ("request", "batch", "chunk")
    assert (request["method"], request["route"], request["status"]) == ("POST", "/annotate", 200)
    assert (batch["groups"], batch["requests"]) == (1, ["labeller-7"])
    assert (chunk["queue"], chunk["annotated"], chunk["refused"]) == ("annotate", 1, 0)
    assert chunk["waited"] >= 0
    assert 0 < batch["seconds"] <= chunk["seconds"]


def test_a_file_s_rows_are_logged_with_the_request_that_made_its_job(stack: Stack) -> None:
    prompt, chosen, rejected = TEXTS
    row = orjson.dumps({"prompt": f"{prompt} Again?", "chosen": chosen, "rejected": rejected})
    file = httpx.post(f"{stack.url}/files", content=row, timeout=60, trust_env=False).json()["id"]
    made = post(stack, "/jobs", {"file": file})
    httpx.get(f"{stack.url}{made.headers['Location']}", params={"wait": 30}, timeout=60, trust_env=False)
    chunk = settled(stack, "worker-0", made.headers["X-Request-ID"], 2)[-1]
    assert (chunk["queue"], chunk["job"]) == ("bulk", made.json()["id"])


@pytest.mark.parametrize("given", ["", "two words", "x" * 65, TEXTS[0]])
def test_an_id_that_a_log_cannot_hold_is_replaced(stack: Stack, given: str) -> None:
    answer = httpx.get(f"{stack.url}/directions", headers={"X-Request-ID": given}, trust_env=False)
    own = answer.headers["X-Request-ID"]
    assert own != given
    assert len(settled(stack, "api", own, 1)) == 1


def test_a_refusal_is_logged_with_its_reason_and_answered_with_an_id(stack: Stack) -> None:
    answer = post(stack, "/annotate", {"pairs": [{"prompt": TEXTS[0], "chosen": 7}]})
    (line,) = settled(stack, "api", answer.headers["X-Request-ID"], 1)
    assert (line["status"], line["reason"]) == (422, "unprocessable_entity")


def test_no_log_holds_text_of_a_pair_and_every_line_is_json(stack: Stack) -> None:
    prompt, chosen, rejected = TEXTS
    pairs = [{"prompt": prompt * 100, "chosen": chosen, "rejected": rejected}, {"prompt": prompt}]
    for body in ({"pairs": pairs}, {"pairs": pairs[:1]}, {"pairs": prompt}, {"pairs": pairs[:1], "direction": chosen}):
        assert post(stack, "/annotate", body).status_code in {200, 404, 422}
    post(stack, "/score", {"prompt": prompt, "responses": [chosen, rejected]}).raise_for_status()
    httpx.get(f"{stack.url}/jobs/{prompt}", params={"wait": chosen}, trust_env=False)
    for part in ("api", "worker-0"):
        assert lines(stack, part)
        log = (stack.folder / f"{part}.log").read_text()
        for word in ("juggle", "aubergine", "zealous", "uixotic"):
            assert word not in log


def test_probes_are_answered_without_a_line(stack: Stack) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/metrics/workers"):
        own = httpx.get(f"{stack.url}{path}", trust_env=False).headers["X-Request-ID"]
        assert of_request(stack, "api", own) == []
