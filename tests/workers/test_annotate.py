"""From a chunk of pairs to its annotations, on the tiny annotator and its real forward stage."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from app import __version__
from app.schemas.annotate import Annotation, FailedAnnotation
from app.schemas.chunk import Chunk
from app.schemas.names import Ref
from app.schemas.pairs import Message, Pair
from tests.conftest import WINDOW, random_direction, ref, serving, tiny_annotator, tiny_tokenizer
from workers.annotate import PairAnnotator
from workers.directions.direction import SafetyDirection, logistic
from workers.engine.annotator import Annotator
from workers.engine.reference import read_plainly
from workers.engine.sites import Site
from workers.holding import NotHeld

SITES = (Site(2, "mean"), Site(1, "end_of_turn"))
PAIRS = [
    Pair(id="knife", prompt="How do I sharpen a knife?", chosen="Slowly, with care.", rejected="No idea!"),
    Pair(id="empty", prompt="hi", chosen="", rejected="Go away"),
    Pair(id="long", prompt="hi", chosen="~" * WINDOW, rejected="no"),
    Pair(
        id="talk",
        prompt=[
            Message(role="user", content="Hi"),
            Message(role="assistant", content="Hello!"),
            Message(role="user", content="Who are you?"),
        ],
        chosen="A friend.",
        rejected="Nobody at all.",
    ),
]
NO_SYSTEM_ROLE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ message['role'] + ': ' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}"
)


@pytest.fixture(scope="module")
def directions(annotator: Annotator) -> dict[str, SafetyDirection]:
    """Two directions that read the same places: one calibrated and with levels, one not."""
    sure = random_direction(annotator, "sure", 0, *SITES, slope=2.5, level_edges=[-1.0, 0.0, 1.0], unreliable=False)
    return {"sure": sure, "raw": random_direction(annotator, "raw", 1, *SITES)}


@pytest.fixture
def worker(annotator: Annotator, tmp_path: Path, directions: dict[str, SafetyDirection]) -> Iterator[PairAnnotator]:
    with serving(annotator, tmp_path, *directions.values()) as pairs:
        yield pairs


def chunk(worker: PairAnnotator, *pairs: Pair, directions: Sequence[str] = ("sure",), truncate: bool = False) -> Chunk:
    held = worker.holdings.directions.all()
    refs = [ref(held[name]) for name in directions]
    lines = list(range(1, len(pairs) + 1))
    return Chunk(directions=refs, truncate=truncate, items=list(pairs), lines=lines, tokens=0)


def annotated(worker: PairAnnotator, *pairs: Pair, direction: str = "sure") -> list[Annotation]:
    entries = worker.annotate(chunk(worker, *pairs, directions=[direction])).entries
    assert all(isinstance(entry, Annotation) for entry in entries)
    return [entry for entry in entries if isinstance(entry, Annotation)]


def swapped(pair: Pair) -> Pair:
    return pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})


def test_answers_come_in_the_order_of_the_pairs_and_failures_in_their_place(worker: PairAnnotator) -> None:
    entries = worker.annotate(chunk(worker, *PAIRS)).entries
    assert [entry.id for entry in entries] == ["knife", "empty", "long", "talk"]
    assert [type(entry) for entry in entries] == [Annotation, Annotation, FailedAnnotation, Annotation]


def test_a_failure_carries_its_code_and_counts_and_none_of_the_text(worker: PairAnnotator) -> None:
    (failure,) = worker.annotate(chunk(worker, PAIRS[2])).entries
    assert isinstance(failure, FailedAnnotation)
    counts = failure.error.counts
    assert (failure.error.status, failure.error.code) == (422, "too_long")
    assert (counts["prompt"], counts["longest_response"], counts["window"]) == (2, WINDOW, WINDOW)
    assert "~" not in failure.model_dump_json()


def test_scores_are_the_projections_that_plain_transformers_gives(
    worker: PairAnnotator, annotator: Annotator, directions: dict[str, SafetyDirection]
) -> None:
    pairs = [pair for pair in PAIRS if pair.id != "long"]
    for pair, found in zip(pairs, annotated(worker, *pairs), strict=True):
        group = annotator.template.encode(pair.messages, [pair.chosen, pair.rejected])
        chosen, rejected = directions["sure"].scores(read_plainly(annotator, [group], SITES)).tolist()
        assert found.raw.chosen == pytest.approx(chosen, rel=1e-3, abs=1e-4)
        assert found.raw.rejected == pytest.approx(rejected, rel=1e-3, abs=1e-4)


def test_the_raw_margin_is_exactly_chosen_minus_rejected(worker: PairAnnotator) -> None:
    for found in annotated(worker, PAIRS[0], PAIRS[1], PAIRS[3]):
        assert found.raw.margin == found.raw.chosen - found.raw.rejected


def test_swapping_chosen_and_rejected_flips_the_sign_of_the_margin(worker: PairAnnotator) -> None:
    for pair in (PAIRS[0], PAIRS[1], PAIRS[3]):
        (one,), (other,) = annotated(worker, pair), annotated(worker, swapped(pair))
        assert other.margin == pytest.approx(-one.margin, rel=1e-4)
        assert other.probability == pytest.approx(1 - one.probability, abs=1e-4)
        assert one.label_conflict != other.label_conflict
        assert one.label_conflict == (one.margin < 0)


def test_equal_responses_have_no_margin_and_no_conflict(worker: PairAnnotator) -> None:
    (found,) = annotated(worker, Pair(id="same", prompt="hi", chosen="ho", rejected="ho"))
    assert found.margin == pytest.approx(0, abs=1e-5)
    assert found.probability == pytest.approx(0.5, abs=1e-5)


def test_a_margin_is_calibrated_by_the_slope_of_its_direction(worker: PairAnnotator) -> None:
    (calibrated,), (raw,) = annotated(worker, PAIRS[0]), annotated(worker, PAIRS[0], direction="raw")
    assert calibrated.margin == 2.5 * calibrated.raw.margin
    assert raw.margin == raw.raw.margin
    assert calibrated.probability == logistic(calibrated.margin)
    assert calibrated.raw.margin != raw.raw.margin


def test_neighbours_do_not_change_a_margin(worker: PairAnnotator) -> None:
    together = annotated(worker, *[PAIRS[i % 2].model_copy(update={"id": str(i)}) for i in range(20)])
    (alone,) = annotated(worker, PAIRS[0])
    assert [found.margin for found in together[::2]] == pytest.approx([alone.margin] * 10, rel=1e-4)


def test_tokens_count_the_texts_without_the_template(worker: PairAnnotator) -> None:
    pair = Pair(id="counted", prompt="~~~~", chosen="~~", rejected="")
    (found,) = annotated(worker, pair)
    assert found.tokens.model_dump() == {"prompt": 4, "chosen": 2, "rejected": 0}


def test_a_prompt_is_cut_only_where_that_is_allowed_and_the_row_says_so(worker: PairAnnotator) -> None:
    long = Pair(id="long", prompt="~" * 400, chosen="yes", rejected="no")
    (refused,) = worker.annotate(chunk(worker, long)).entries
    cut, short = worker.annotate(chunk(worker, long, PAIRS[0], truncate=True)).entries
    assert isinstance(refused, FailedAnnotation)
    assert isinstance(cut, Annotation)
    assert isinstance(short, Annotation)
    assert (cut.truncated, short.truncated) == (True, False)
    assert 0 < cut.tokens.prompt < WINDOW


def test_roles_that_the_template_refuses_fail_alone(tmp_path: Path) -> None:
    annotator = tiny_annotator(tokenizer=tiny_tokenizer(NO_SYSTEM_ROLE))
    prompt = [Message(role="system", content="Be kind."), Message(role="user", content="hi")]
    with_system = Pair(id="system", prompt=prompt, chosen="yes", rejected="no")
    with serving(annotator, tmp_path, random_direction(annotator, "sure")) as worker:
        failure, found = worker.annotate(chunk(worker, with_system, PAIRS[0])).entries
    assert isinstance(failure, FailedAnnotation)
    assert (failure.id, failure.error.code) == ("system", "template_refused")
    assert isinstance(found, Annotation)


def test_a_chunk_of_nothing_but_failures_is_answered(worker: PairAnnotator) -> None:
    answer = worker.annotate(chunk(worker, PAIRS[2], PAIRS[2]))
    assert [type(entry) for entry in answer.entries] == [FailedAnnotation, FailedAnnotation]
    assert answer.provenance.direction == "sure"


def test_provenance_says_what_exactly_made_the_numbers(
    worker: PairAnnotator, annotator: Annotator, directions: dict[str, SafetyDirection]
) -> None:
    assert worker.annotate(chunk(worker, PAIRS[0])).provenance.model_dump() == {
        "method": "margin",
        "rules": None,
        "model": "tiny",
        "model_revision": "sha256:tiny",
        "template": annotator.template.digest,
        "direction": "sure",
        "direction_digest": directions["sure"].card.digest,
        "alignment": None,
        "reward_model": None,
        "calibrated": True,
        "unreliable": False,
        "layers": [1, 2],
        "pooling": "mean+end_of_turn",
        "dtype": "float32",
        "version": __version__,
        "others": None,
    }
    raw = worker.annotate(chunk(worker, PAIRS[0], directions=["raw"])).provenance
    assert (raw.calibrated, raw.unreliable) == (False, True)


def test_a_level_says_how_many_edges_the_margin_reaches(worker: PairAnnotator) -> None:
    found = annotated(worker, *[pair for n in (0, 1, 3) for pair in (PAIRS[n], swapped(PAIRS[n]))])
    assert [entry.level for entry in found] == [sum(entry.margin >= edge for edge in (-1, 0, 1)) for entry in found]
    assert len({entry.level for entry in found}) > 1


def test_a_direction_without_level_edges_has_no_levels(worker: PairAnnotator) -> None:
    (found,) = annotated(worker, PAIRS[0], direction="raw")
    assert found.level is None


def test_of_several_directions_the_first_is_the_answer_and_all_are_listed(worker: PairAnnotator) -> None:
    answer = worker.annotate(chunk(worker, PAIRS[0], PAIRS[2], directions=["raw", "sure"]))
    found, failure = answer.entries
    assert isinstance(found, Annotation)
    assert isinstance(failure, FailedAnnotation)
    assert found.directions is not None
    assert list(found.directions) == ["raw", "sure"]
    for name, said in found.directions.items():
        (alone,) = annotated(worker, PAIRS[0], direction=name)
        assert said.raw.margin == pytest.approx(alone.raw.margin, rel=1e-5)
        assert (said.level, said.label_conflict) == (alone.level, alone.label_conflict)
    assert found.margin == found.directions["raw"].margin != found.directions["sure"].margin
    assert answer.provenance.direction == "raw"
    assert answer.provenance.others is not None
    assert [(other.direction, other.calibrated) for other in answer.provenance.others] == [("sure", True)]
    assert answer.counts() == (1, 1)


def test_one_direction_is_not_listed_again(worker: PairAnnotator) -> None:
    (found,) = annotated(worker, PAIRS[0])
    assert found.directions is None


def test_a_direction_that_is_not_to_be_had_is_refused_for_the_whole_chunk(worker: PairAnnotator) -> None:
    wanted = chunk(worker, PAIRS[0]).model_copy(update={"directions": [Ref(id="other", digest="sha256:" + "0" * 64)]})
    with pytest.raises(NotHeld, match="direction other was deleted while the job used it"):
        worker.annotate(wanted)
