"""`--method`, `--explain` and `--rules`: what they ask of the service, and how they are refused."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from app.artifacts import Artifacts
from app.rulepools import RulePools
from app.schemas.rules import Rule, RulePool
from app.settings import settings
from cli import annotate as command
from cli.judging import judging
from cli.main import app
from tests.cli.bench import Bench


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (("margin", False, []), {}),
        (("rules", False, []), {"method": "rules"}),
        (("margin", True, []), {"explain": True}),
        (
            ("rules", False, ["policy=published", "k=3", "band=0.5"]),
            {"method": "rules", "rules": {"policy": "published", "k": 3, "band": 0.5}},
        ),
        (
            ("margin", True, ["policy=fixed", "fixed=calm,kind"]),
            {"explain": True, "rules": {"policy": "fixed", "fixed": ["calm", "kind"]}},
        ),
        (
            ("rules", False, ["fixed=calm", "policy=fixed", "fixed=kind"]),
            {"method": "rules", "rules": {"policy": "fixed", "fixed": ["calm", "kind"]}},
        ),
    ],
)
def test_only_what_is_not_the_default_is_said(given: tuple[str, bool, list[str]], asked: dict[str, Any]) -> None:
    assert judging(*given) == asked


@pytest.mark.parametrize(
    ("given", "where", "why"),
    [
        (("mergin", False, []), "--method", "'rules', 'rahf' or 'reward'"),
        (("rules", False, ["k"]), "--rules", "takes NAME=VALUE"),
        (("rules", False, ["the secret"]), "--rules", "takes NAME=VALUE"),
        (("rules", False, ["k=3", "k=5"]), "--rules k", "is given twice"),
        (("rules", False, ["fixed=the secret"]), "--rules fixed", "takes letters, digits"),
        (("rules", False, ["band=the secret"]), "--rules band", "number"),
        (("rules", False, ["the secret=3"]), "--rules", "takes NAME=VALUE"),
        (("rules", False, ["k=none"]), "--rules k", "integer"),
        (("rules", False, ["kay=3"]), "--rules kay", "there is no such field"),
        (("rules", False, ["policy=fixed"]), "--rules fixed", "name at least one rule in `fixed`"),
        (("rules", False, ["fixed=calm"]), "--rules fixed", "goes with the policy `fixed` only"),
        (("rules", False, ["policy=adapter"]), "--rules adapter", "name a rule adapter in `adapter`"),
        (("rules", False, ["adapter=mine"]), "--rules adapter", "goes with the policy `adapter` only"),
        (("margin", False, ["k=3"]), "--rules", "goes with --method rules or --explain"),
    ],
)
def test_what_cannot_be_is_named(given: tuple[str, bool, list[str]], where: str, why: str) -> None:
    with pytest.raises(typer.BadParameter) as refused:
        judging(*given)
    assert refused.value.param_hint == where
    assert why in str(refused.value)
    assert "secret" not in refused.value.format_message()


def test_a_taught_model_goes_with_its_method_and_no_other() -> None:
    assert judging("rahf", False, [], "kinder") == {"method": "rahf", "alignment": "kinder"}
    for method, explain, rules, alignment, where in (
        ("rahf", False, [], None, "--alignment"),
        ("margin", False, [], "kinder", "--alignment"),
        ("rules", False, [], "kinder", "--alignment"),
        ("rahf", True, [], "kinder", "--explain"),
        ("rahf", False, ["k=3"], "kinder", "--rules"),
    ):
        with pytest.raises(typer.BadParameter) as refused:
            judging(method, explain, rules, alignment)
        assert refused.value.param_hint == where


def test_a_dataset_is_annotated_by_the_taught_model_that_was_named(bench: Bench) -> None:
    bench.annotate("--method", "rahf", "--alignment", "kinder")
    order = bench.service.jobs["j1"]["order"]
    assert (order["method"], order["alignment"]) == ("rahf", "kinder")


def test_a_reward_model_goes_with_its_method_and_no_other() -> None:
    assert judging("reward", False, [], None, "mine") == {"method": "reward", "reward_model": "mine"}
    for method, explain, rules, reward_model, where in (
        ("reward", False, [], None, "--reward-model"),
        ("margin", False, [], "mine", "--reward-model"),
        ("reward", True, [], "mine", "--explain"),
        ("reward", False, ["k=3"], "mine", "--rules"),
    ):
        with pytest.raises(typer.BadParameter) as refused:
            judging(method, explain, rules, None, reward_model)
        assert refused.value.param_hint == where


def test_a_dataset_is_annotated_by_the_reward_model_that_was_named(bench: Bench) -> None:
    bench.annotate("--method", "reward", "--reward-model", "mine")
    order = bench.service.jobs["j1"]["order"]
    assert (order["method"], order["reward_model"]) == ("reward", "mine")


def test_a_dataset_is_annotated_by_the_rules_that_were_named(bench: Bench) -> None:
    bench.annotate("--method", "rules", "--rules", "policy=published", "--rules", "k=3")
    order = bench.service.jobs["j1"]["order"]
    assert (order["method"], order["rules"]) == ("rules", {"policy": "published", "k": 3})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rules", "pool=nowhere"], "there is no rule pool nowhere"),
        (["--rules", "bank=nothing"], "there is no rule bank nothing"),
        (["--rules", "pool=mine"], "there is no rule bank of mine as it is now"),
        (["--rules", "pool=mine", "--rules", "bank=safety-100-smollm2"], "was made for pool safety-100, not for"),
        (["--rules", "policy=fixed", "--rules", "fixed=calm"], "names what is no rule of the pool"),
        (["--rules", "policy=adapter", "--rules", "adapter=nothing"], "there is no rule adapter nothing"),
        (["--method", "rahf", "--alignment", "nobody"], "there is no alignment nobody"),
        (["--method", "reward", "--reward-model", "nobody"], "there is no reward model nobody"),
        (["--direction", "no/id"], "takes letters, digits"),
        (["--direction", "a", "--direction", "a"], "must not name a direction twice"),
        (["--errors", "no/such/folder.jsonl"], "one that does not exist"),
    ],
)
def test_what_the_store_does_not_have_is_said_before_a_service_is_started(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.delenv("SAFEMARGIN_URL", raising=False)
    monkeypatch.setattr(command, "running_service", lambda *_: pytest.fail("a service is started"))
    settings.cache_clear()
    calm = Rule(id="calm", category="tone", text="The response stays calm.")
    RulePools(Artifacts(str(tmp_path / "store"))).add("mine", RulePool(rules=[calm]))
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    given = ["annotate", str(tmp_path / "data.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--method", "rules", *options]
    ended = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    settings.cache_clear()
    assert ended.exit_code in {1, 2}
    assert said in ended.output
    assert {path.name for path in tmp_path.iterdir()} == {"data.jsonl", "store"}
