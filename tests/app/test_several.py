"""Several directions in one request: read together, told apart in the answer."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import Station, direction, publish
from workers.engine.annotator import Annotator
from workers.engine.sites import Site

PAIR = {"id": "a", "prompt": "How do I pick a lock?", "chosen": "Ask a locksmith.", "rejected": "Bend two hairpins."}
OTHER = {"id": "b", "prompt": "Hello?", "chosen": "Hello.", "rejected": "Go away."}
TOO_LONG = PAIR | {"id": "long", "prompt": "word " * 400}


def post(client: TestClient, direction: Any, *pairs: dict[str, Any]) -> Any:
    return client.post("/annotate", json={"pairs": list(pairs) or [PAIR], "direction": direction})


def close(margin: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results are the same but for rounding in the forward pass."""
    numbers = [[m["margin"], m["probability"], *m["raw"].values()] for m in (margin, other)]
    return margin["level"] == other["level"] and numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-5)


@pytest.mark.usefixtures("store_restored")
def test_they_cost_one_forward_pass(client: TestClient, station: Station, annotator: Annotator) -> None:
    publish(station.registry, direction(annotator, "deep", 3, [Site(3, "last"), Site(1, "mean")]))
    station.look_at_store()
    before = len(station.passes)
    assert post(client, "kind").status_code == 200
    one = station.passes[before:]
    before = len(station.passes)
    assert post(client, ["kind", "raw", "deep"]).status_code == 200
    assert station.passes[before:] == one
    assert len(one) == 1 and one[0] > 0


def test_each_has_the_result_that_it_has_alone(client: TestClient) -> None:
    together = post(client, ["kind", "raw"], PAIR, OTHER).json()["annotations"]
    for name in ("kind", "raw"):
        alone = post(client, name, PAIR, OTHER).json()["annotations"]
        for entry, own in zip(together, alone, strict=True):
            assert close(entry["directions"][name], own)


def test_the_first_is_the_main_one(client: TestClient) -> None:
    for order in (["kind", "raw"], ["raw", "kind"]):
        answer = post(client, order).json()
        entry = answer["annotations"][0]
        main = entry["directions"][order[0]]
        assert list(entry["directions"]) == order
        assert {name: entry[name] for name in main} == main
        assert answer["provenance"]["direction"] == order[0]


def test_provenance_tells_of_the_others_too(client: TestClient) -> None:
    provenance = post(client, ["kind", "raw"]).json()["provenance"]
    (other,) = provenance.pop("others")
    assert provenance | {"others": None} == post(client, "kind").json()["provenance"]
    assert other == post(client, "raw").json()["provenance"]


def test_one_direction_answers_as_ever_even_in_a_list(client: TestClient) -> None:
    listed, plain = post(client, ["kind"]).json(), post(client, "kind").json()
    assert listed == plain
    assert plain["annotations"][0]["directions"] is None
    assert plain["provenance"]["others"] is None


def test_default_is_called_by_what_it_stands_for(client: TestClient) -> None:
    answer = post(client, ["raw", "default"]).json()
    assert list(answer["annotations"][0]["directions"]) == ["raw", "kind"]
    assert [other["direction"] for other in answer["provenance"]["others"]] == ["kind"]


def test_a_pair_that_cannot_be_read_fails_once_for_all(client: TestClient) -> None:
    failed, fine = post(client, ["kind", "raw"], TOO_LONG, PAIR).json()["annotations"]
    assert failed["error"]["code"] == "too_long"
    assert set(fine["directions"]) == {"kind", "raw"}


def test_rows_of_a_job_have_every_direction(client: TestClient) -> None:
    body = {"pairs": [PAIR, OTHER], "direction": ["kind", "raw"]}
    location = client.post("/annotate", json=body, headers={"Prefer": "respond-async"}).headers["Location"]
    client.get(location, params={"wait": 20})
    answer = client.get(f"{location}/results", headers={"Accept": "application/json"}).json()
    assert [set(entry["directions"]) for entry in answer["annotations"]] == [{"kind", "raw"}] * 2


@pytest.mark.parametrize(
    ("directions", "status", "pointer"),
    [
        (["kind", "kind"], 422, "/direction"),
        (["default", "kind"], 422, "/direction/1"),
        (["raw", "kind", "default"], 422, "/direction/2"),
        ([f"d{number}" for number in range(33)], 422, "/direction"),
        (["kind", "nowhere", "raw"], 404, "/direction/1"),
        (["nowhere"], 404, "/direction/0"),
    ],
    ids=["twice", "the default by both names", "both names, apart", "too many", "unknown", "only unknown"],
)
def test_a_list_that_makes_no_sense_is_refused_and_its_place_named(
    client: TestClient, directions: list[str], status: int, pointer: str
) -> None:
    answer = post(client, directions)
    assert (answer.status_code, [error["pointer"] for error in answer.json()["errors"]]) == (status, [pointer])
