"""A page that says something else than the answer is found out; what it leaves open is not."""

import pytest

from tests.docs.likeness import Names, differences, filled_in, loosely

ANSWER = '{"id": "job-1", "rows": 3, "margin": 0.57, "done": false, "scores": [1, 2, 3], "of": {"id": "x", "n": null}}'


@pytest.mark.parametrize(
    "expected",
    [
        ANSWER,
        '{"id": "job-…", …}',
        '{"margin": 0.6, "rows": 3, …}',
        '{"scores": [1, …], "of": {…}, …}',
        '{"scores": …, "id": "…", "rows": 3, "margin": …, "done": …, "of": {"n": …, …}}',
        "…",
    ],
)
def test_what_is_so_and_what_is_left_open(expected: str) -> None:
    assert list(differences("json", expected, ANSWER, {})) == []


@pytest.mark.parametrize(
    ("expected", "where"),
    [
        ('{"id": "job-1"}', "/rows"),
        ('{"other": 1, …}', "/other"),
        ('{"rows": 4, …}', "/rows"),
        ('{"rows": "3", …}', "/rows"),
        ('{"margin": 0.9, …}', "/margin"),
        ('{"margin": -0.57, …}', "/margin"),
        ('{"done": 0, …}', "/done"),
        ('{"id": "file-…", …}', "/id"),
        ('{"scores": [1, 2], …}', "/scores"),
        ('{"scores": [2, …], …}', "/scores/0"),
        ('{"scores": [1, 2, 3, 4, …], …}', "/scores"),
        ('{"of": {"n": 1, …}, …}', "/of/n"),
        ('{"of": null, …}', "/of"),
    ],
)
def test_what_is_not_so_is_named(expected: str, where: str) -> None:
    assert any(what.startswith(f"{where}:") for what in differences("json", expected, ANSWER, {}))


def test_a_word_in_capitals_is_remembered() -> None:
    names: Names = {}
    assert list(differences("json", '{"id": "JOB", …}', ANSWER, names)) == []
    assert names == {"JOB": "job-1"}
    assert filled_in("curl http://host/jobs/JOB -X POST", names) == "curl http://host/jobs/job-1 -X POST"
    assert list(differences("json", '{"id": "JOB", …}', ANSWER.replace("job-1", "job-2"), names))


def test_a_word_in_capitals_may_be_a_step_of_a_path() -> None:
    names: Names = {}
    assert list(differences("json", '{"at": "/jobs/JOB/rows"}', '{"at": "/jobs/7/rows"}', names)) == []
    assert names == {"JOB": "7"}
    assert list(differences("json", '{"at": "no JSON"}', '{"at": "no YAML"}', {}))


def test_lines() -> None:
    answer = '{"line": 1}\n{"line": 2}\n{"line": 3}\n'
    assert list(differences("jsonl", '{"line": 1}\n…\n', answer, {})) == []
    assert list(differences("jsonl", '{"line": 1}\n{"line": 3}\n…\n', answer, {})) == ["line 2: /line: 2"]
    assert list(differences("jsonl", '{"line": 1}\n', answer, {}))
    assert list(differences("jsonl", '{"line": 1}\n' * 4, answer, {}))


def test_an_answer_with_its_head() -> None:
    got = 'HTTP/1.1 202 Accepted\r\nLocation: /jobs/7\r\nDate: today\r\n\r\n{"id": "7"}'
    names: Names = {}
    expected = 'HTTP/1.1 202 Accepted\nlocation: /jobs/JOB\n\n{"id": "JOB"}\n'
    assert list(differences("http", expected, got, names)) == []
    assert list(differences("http", expected.replace("202 Accepted", "200 OK"), got, {}))
    assert list(differences("http", expected.replace("/jobs", "/files"), got, {}))
    assert list(differences("http", expected.replace("location", "retry-after"), got, {}))
    assert list(differences("http", expected, got.replace('"7"', '"8"'), {}))


def test_texts() -> None:
    assert (
        list(differences("text", "event: progress\n…\nevent: end\n…", "event: progress\n1\n\nevent: end\n2", {})) == []
    )
    assert list(differences("text", "event: end", "event: progress", {}))
    assert list(differences("text", "job JOB", "job 7", {"JOB": "7"})) == []


def test_what_is_no_json_even_loosely_is_a_mistake_of_the_page() -> None:
    with pytest.raises(ValueError, match="delimiter"):
        loosely('{"a": 1 …}')
