"""`safemargin rules evaluate` with a tiny annotator, a bank fitted to it and pairs that it can read."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.artifacts import Artifacts
from app.rulebanks import RuleBanks
from app.rulepools import RulePools
from app.schemas.evaluation import PolicyReport
from app.schemas.rules import Rule, RulePool
from app.settings import settings
from cli.main import app
from tests.workers.rules.conftest import roomy_annotator
from workers.directions.balance import Balance, balance
from workers.rules.bank import RuleBank, from_folder, sealed, to_files
from workers.rules.distil import distil
from workers.rules.examples import from_exchanges
from workers.rules.pool import Exchange

POOL = RulePool(
    rules=[
        Rule(id="no-numbers", category="tone", text="The response names no numbers."),
        Rule(id="no-shouting", category="tone", text="The response does not shout."),
    ]
)
SUBJECTS = ["knives", "boats", "tea", "the moon", "my aunt", "a long walk", "Tuesday", "soup", "glass", "the sea"]


def fitted() -> RuleBank:
    exchanges = []
    for subject in SUBJECTS:
        loud, calm = f"OH {subject.upper()} IS GREAT!!!", f"oh {subject} is great"
        exchanges += [Exchange("no-shouting", f"Say something of {subject}", t, t is calm) for t in (loud, calm)]
        many, few = f"some {subject} 77 90 13", f"some {subject} or other"
        exchanges += [Exchange("no-numbers", f"How many: {subject}", t, t is few) for t in (many, few)]
    examples = from_exchanges(POOL, exchanges)
    return distil(roomy_annotator(), POOL, examples, pool_id="mine", bank_id="first")


@pytest.fixture(scope="module")
def bank() -> RuleBank:
    return fitted()


@pytest.fixture
def banks(bank: RuleBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RuleBanks]:
    """A store with a pool called `mine` and a bank called `first`; the annotator is a tiny one."""
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("cli.loading.annotator", roomy_annotator)
    settings.cache_clear()
    store = Artifacts(str(tmp_path / "store"))
    RulePools(store).add("mine", POOL)
    banks = RuleBanks(store)
    banks.publish("first", bank.card.digest, to_files(bank))
    yield banks
    settings.cache_clear()


def pair(number: int, topic: str, *, wrong: bool = False) -> dict[str, object]:
    calm, loud = f"well, {topic} is fine", f"{topic.upper()}!!! YES {topic.upper()}"
    chosen, rejected = (loud, calm) if wrong else (calm, loud)
    return {"prompt": f"Say something of {topic} {number}", "chosen": chosen, "rejected": rejected}


def written(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Thirty pairs whose chosen response does not shout, one of five mislabelled."""
    return written(tmp_path / "pairs.jsonl", [pair(i, SUBJECTS[i % 10], wrong=i % 5 == 0) for i in range(30)])


def evaluate(path: Path, *arguments: str, status: int = 0) -> Result:
    ended = CliRunner().invoke(app, ["rules", "evaluate", str(path), "--pool", "mine", *arguments])
    assert ended.exit_code == status, ended.output
    return ended


def test_every_policy_and_k_is_in_the_table_the_file_and_the_plot(
    banks: RuleBanks, pairs: Path, tmp_path: Path
) -> None:
    out, plot = tmp_path / "report.json", tmp_path / "report.png"
    ended = evaluate(pairs, "--k", "1,2", "--out", str(out), "--plot", str(plot))
    report = PolicyReport.model_validate_json(out.read_bytes())
    assert (report.pairs, report.skipped, report.data) == ({"probes": 30}, {"probes": 0}, "pairs.jsonl")
    assert (report.pool, report.pool_digest) == ("mine", POOL.digest)
    assert (report.bank, report.bank_digest) == ("first", banks.digest("first"))
    everything, *others = report.figures
    assert (everything.policy, everything.k, everything.gain) == ("all", 2, None)
    assert everything.accuracy.value > 0.6
    assert [row.k for row in others] == [1, 2] * 6
    assert all(row.policy in ended.output for row in report.figures)
    assert f"{everything.accuracy.value:.3f} [{everything.accuracy.low:.3f}" in ended.output
    assert "probes: 30 pairs of pairs.jsonl\n" in ended.output
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_raters_stand_beside_each_other_and_robust_needs_probes(banks: RuleBanks, pairs: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "report.json", tmp_path / "report.svg"
    options = ("--rater", "probes", "--rater", "logits", "--policy", "robust", "--policy", "all", "--k", "1")
    evaluate(pairs, *options, "--out", str(out), "--plot", str(plot))
    report = PolicyReport.model_validate_json(out.read_bytes())
    found = [(row.rater, row.policy) for row in report.figures]
    assert found == [("probes", "all"), ("probes", "robust"), ("logits", "all")]
    assert b"critical rules k, logits" in plot.read_bytes()


def test_pairs_that_are_too_long_are_skipped_and_counted(banks: RuleBanks, pairs: Path, tmp_path: Path) -> None:
    long = {"prompt": "go on", "chosen": "on and on " * 800, "rejected": "no"}
    rows = [*map(json.loads, pairs.read_text().splitlines()), long]
    ended = evaluate(written(pairs, rows), "--policy", "all")
    assert "probes: 30 pairs of pairs.jsonl, 1 skipped as too long" in ended.output


def test_limit_reads_the_first_pairs_only(banks: RuleBanks, pairs: Path) -> None:
    assert "probes: 25 pairs" in evaluate(pairs, "--limit", "25", "--policy", "all").output


def test_the_balance_set_is_measured_where_that_is_asked_for(
    banks: RuleBanks, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = balance()
    places = [*whole.benign.nonzero()[:8, 0].tolist(), *(~whole.benign).nonzero()[:8, 0].tolist()]
    small = Balance([whole.pairs[i] for i in places], [whole.families[i] for i in places], whole.benign[places])
    for module in ("measuring", "evaluating"):
        monkeypatch.setattr(f"workers.rules.{module}.balance", lambda: small)
    ended = evaluate(pairs, "--balance", "--policy", "all", "--out", str(tmp_path / "report.json"))
    assert "should respond" in ended.output
    (row,) = PolicyReport.model_validate_json((tmp_path / "report.json").read_bytes()).figures
    assert row.should_respond is not None
    assert row.should_refuse is not None
    assert row.should_respond.pairs == row.should_refuse.pairs == 8


def test_calibrate_stores_readings_and_a_new_digest(banks: RuleBanks, bank: RuleBank, pairs: Path) -> None:
    ended = evaluate(pairs, "--k", "1,2", "--calibrate")
    assert "first: all, random/relevance/discrepancy/published/robust k 1,2 calibrated, sha256:" in ended.output
    assert "fixed: not calibrated: its rules are those of whoever asks" in ended.output
    card = banks.card("first")
    assert card.digest == banks.digest("first") != bank.card.digest
    assert {(reading.policy, reading.k) for reading in card.readings} >= {("all", 2), ("robust", 1)}
    assert "fixed" not in {reading.policy for reading in card.readings}
    reading = card.reading("robust", 1)
    assert reading is not None
    assert reading.data == "pairs.jsonl, 30 pairs"
    before = {(r.policy, r.k): r for r in card.readings}
    evaluate(pairs, "--policy", "robust", "--k", "1", "--limit", "25", "--calibrate")
    after = {(r.policy, r.k): r for r in banks.card("first").readings}
    assert after.keys() == before.keys()
    assert [key for key in before if after[key] != before[key]] == [("robust", 1)]


def test_a_policy_whose_margins_say_nothing_is_said_to_be_uncalibrated(
    banks: RuleBanks, pairs: Path, tmp_path: Path
) -> None:
    wrong = written(tmp_path / "wrong.jsonl", [pair(i, SUBJECTS[i % 10], wrong=True) for i in range(30)])
    ended = evaluate(wrong, "--policy", "all", "--calibrate")
    assert "first: nothing calibrated" in ended.output
    assert "all: not calibrated: no slope: its margins carry no signal here" in ended.output


def test_a_bank_in_a_folder_is_read_and_calibrated_there(
    banks: RuleBanks, bank: RuleBank, pairs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    for name, content in to_files(bank).items():
        (folder / name).write_bytes(content)
    banks.delete("first")
    evaluate(pairs, "--policy", "all", "--bank", str(folder), "--calibrate")
    assert [reading.policy for reading in from_folder(folder).card.readings] == ["all"]
    assert banks.current() == {}


def test_the_newest_bank_that_fits_is_taken_where_none_is_named(
    banks: RuleBanks, bank: RuleBank, pairs: Path, tmp_path: Path
) -> None:
    for name, created, pool in (("older", "2020-01-01", "mine"), ("newer", "2099-01-01", "mine"), ("x", "2100", "y")):
        changed = bank.card.model_copy(update={"id": name, "created": created, "pool": pool})
        made = sealed(replace(bank, card=changed))
        banks.publish(name, made.card.digest, to_files(made))
    out = tmp_path / "report.json"
    evaluate(pairs, "--policy", "all", "--out", str(out))
    assert PolicyReport.model_validate_json(out.read_bytes()).bank == "newer"


def test_what_cannot_be_measured_is_said_and_ends_with_1(banks: RuleBanks, pairs: Path, tmp_path: Path) -> None:
    assert "there is no rule bank other" in evaluate(pairs, "--bank", "other", status=1).output
    assert "15 pairs that can be read are too few" in evaluate(pairs, "--limit", "15", status=1).output
    assert "cannot be read" in evaluate(tmp_path / "nowhere.jsonl", status=1).output
    broken = written(tmp_path / "broken.jsonl", [{"prompt": "a secret", "chosen": "x"}])
    ended = evaluate(broken, status=1)
    assert "line 1: rejected" in ended.output
    assert "secret" not in ended.output
    assert "there is no rule pool other" in evaluate(pairs, "--pool", "other", status=1).output
    long = written(tmp_path / "long.jsonl", [{"prompt": "x", "chosen": "on " * 2500, "rejected": "no"}] * 3)
    assert "none of 3 pairs can be read" in evaluate(long, status=1).output
    nowhere = str(tmp_path / "no" / "report.json")
    assert "cannot be written" in evaluate(pairs, "--policy", "all", "--out", nowhere, status=1).output


def test_a_bank_made_for_something_else_is_refused(
    banks: RuleBanks, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RulePools(banks.artifacts).add("other", RulePool(rules=[POOL.rules[0]]))
    ended = evaluate(pairs, "--pool", "other", "--bank", "first", status=1)
    assert "rule bank first was made for pool mine, not for pool other" in ended.output
    assert "there is no rule bank of other as it is now" in evaluate(pairs, "--pool", "other", status=1).output
    RulePools(banks.artifacts).add("mine", RulePool(rules=[POOL.rules[0]]))
    ended = evaluate(pairs, "--bank", "first", status=1)
    assert "rule bank first was made for what pool mine was before, not for what it is now" in ended.output
    RulePools(banks.artifacts).add("mine", POOL)
    monkeypatch.setattr("cli.loading.annotator", lambda: replace(roomy_annotator(), revision="sha256:another"))
    assert "not for the weights of tiny" in evaluate(pairs, "--bank", "first", status=1).output


def test_the_pool_of_a_named_bank_is_taken_where_none_is_named(
    banks: RuleBanks, bank: RuleBank, pairs: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "first", tmp_path / "report.json"
    folder.mkdir()
    for name, content in to_files(bank).items():
        (folder / name).write_bytes(content)
    for named in ("first", str(folder)):
        given = ["rules", "evaluate", str(pairs), "--bank", named, "--policy", "all", "--out", str(out)]
        ended = CliRunner().invoke(app, given)
        assert ended.exit_code == 0, ended.output
        assert PolicyReport.model_validate_json(out.read_bytes()).pool == "mine"
        out.unlink()


@pytest.mark.parametrize(
    "options",
    [
        ("--rater", "hearsay"),
        ("--policy", "adapter"),
        ("--k", "five"),
        ("--k", "0"),
        ("--k", ""),
        ("--plot", "report.txt"),
        ("--rater", "logits", "--calibrate"),
    ],
)
def test_options_that_make_no_sense_are_refused(banks: RuleBanks, pairs: Path, options: tuple[str, ...]) -> None:
    ended = evaluate(pairs, *options, status=2)
    assert "five" not in ended.output
