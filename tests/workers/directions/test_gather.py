"""Every recipe's rows against the activations that they are made of, combined by hand."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from app.schemas.fit import (
    AnySource,
    ContrastSource,
    LabelledResponse,
    LabelledSource,
    LegendSource,
    PairsSource,
    PlainResponse,
)
from app.schemas.pairs import Message, Pair
from tests.conftest import WINDOW, tiny_annotator, user
from tests.workers.directions.synthetic import KIND, gaussian, kind_or_cruel
from workers.directions import gather as gather_module
from workers.directions.balance import balance
from workers.directions.direction import SafetyDirection, new_direction
from workers.directions.errors import UnfitData
from workers.directions.gather import POOLINGS, gather, opening, plan
from workers.directions.refusals import REFUSALS, is_refusal
from workers.directions.rows import Rows
from workers.engine.annotator import Annotator
from workers.engine.forward import read
from workers.engine.sites import Site

LAYERS, REQUEST_LAYER = (1, 3), 2
LONG = "~" * WINDOW


def quiet(_done: int, _total: int) -> None:
    """Progress that nobody watches."""


def gathered(annotator: Annotator, *sources: AnySource, controls: Sequence[SafetyDirection] = ()) -> Rows:
    """Rows of these sources."""
    return gather(plan(annotator, sources, quiet), LAYERS, REQUEST_LAYER, controls, quiet)


def activations(annotator: Annotator, messages: Sequence[Message], *responses: str) -> Tensor:
    """[K, L, P, d] of responses read by themselves."""
    sites = [Site(layer, pooling) for layer in LAYERS for pooling in POOLINGS]
    group = annotator.template.encode(messages, responses)
    return read(annotator, [group], sites).view(len(responses), len(LAYERS), len(POOLINGS), -1)


def request_of(annotator: Annotator, messages: Sequence[Message]) -> Tensor:
    """[d] what the annotator makes of a request, whatever is answered."""
    return read(annotator, [annotator.template.encode(messages, ["Hm."])], [Site(REQUEST_LAYER, "request")])[0, 0]


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def pairs(count: int = 20, *, weight: float = 1.0, start: int = 0) -> PairsSource:
    return PairsSource(recipe="pairs", pairs=kind_or_cruel(count, start=start), weight=weight)


def test_a_pairs_row_is_chosen_minus_rejected(annotator: Annotator) -> None:
    source = pairs()
    rows = gathered(annotator, source)
    assert rows.layers == LAYERS
    assert rows.differences.shape == (20, 2, 2, annotator.width)
    for i, pair in enumerate(kind_or_cruel(20)):
        chosen, rejected = activations(annotator, pair.messages, pair.chosen, pair.rejected)
        same(rows.differences[i], chosen - rejected)
        same(rows.prompts[i], request_of(annotator, pair.messages))


def test_a_labelled_pair_of_responses_reads_like_a_pair(annotator: Annotator) -> None:
    known = kind_or_cruel(20)
    responses = [
        LabelledResponse(prompt=pair.prompt, response=response, label=label)
        for pair in known
        for response, label in ((pair.chosen, 1.0), (pair.rejected, 0.0))
    ]
    rows = gathered(annotator, LabelledSource(recipe="labelled", responses=responses))
    as_pairs = gathered(annotator, pairs())
    same(rows.differences[::2], as_pairs.differences)
    same(rows.differences[1::2], as_pairs.differences)
    same(rows.prompts[::2], as_pairs.prompts)
    assert rows.lengths[::2].tolist() == as_pairs.lengths.tolist()
    assert rows.families.tolist() == [i // 2 for i in range(40)]


def test_labels_that_are_all_equal_are_refused(annotator: Annotator) -> None:
    responses = [LabelledResponse(prompt=f"Question {i}", response=f"Answer {i}", label=0.5) for i in range(30)]
    with pytest.raises(UnfitData, match="all labels of a source are equal"):
        gathered(annotator, LabelledSource(recipe="labelled", responses=responses))


def test_a_contrast_row_is_one_response_under_the_good_minus_under_the_bad_instruction(annotator: Annotator) -> None:
    conversation = [Message(role="system", content="Rhyme."), *user("Who?")]
    turns = [conversation, *(user(f"Question {i}") for i in range(19))]
    responses = [PlainResponse(prompt=messages, response=f"Answer {i}") for i, messages in enumerate(turns)]
    source = ContrastSource(recipe="contrast", responses=responses, good="Be good.", bad="Be a villain!")
    rows = gathered(annotator, source)
    for i, messages in enumerate(turns):
        asked = messages[-1:]  # the system message gives way to the instructions
        sides = [[Message(role="system", content=text), *asked] for text in ("Be good.", "Be a villain!")]
        (good,), (bad,) = (activations(annotator, side, f"Answer {i}") for side in sides)
        same(rows.differences[i], good - bad)
        same(rows.prompts[i], (request_of(annotator, sides[0]) + request_of(annotator, sides[1])) / 2)


def answering(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> list[int]:
    """The annotator answers these requests like that; gives back the limits that it is told."""
    limits: list[int] = []

    def answer_requests(
        _annotator: Annotator, requests: Sequence[str], longest: int, _progress: object
    ) -> list[tuple[str, str]]:
        limits.append(longest)
        return [(request, answers[request]) for request in requests if request in answers]

    monkeypatch.setattr(gather_module, "answer_requests", answer_requests)
    return limits


def test_a_legend_row_is_the_mean_refusal_minus_the_annotators_answer(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [f"How do I break window {i}?" for i in range(22)]
    answers = {request: f"Throw stone {i} at it." for i, request in enumerate(asked)}
    answers |= {asked[3]: "I'm sorry, but I can't help with that.", asked[5]: ""}
    limits = answering(monkeypatch, answers)
    rows = gathered(annotator, LegendSource(recipe="legend", requests=asked, max_new_tokens=17))
    assert limits == [17]
    assert (len(rows), rows.skipped) == (20, 2)
    kept = [request for i, request in enumerate(asked) if i not in (3, 5)]
    for i, request in enumerate(kept):
        *refusals, answer = activations(annotator, user(request), *REFUSALS, answers[request])
        same(rows.differences[i], torch.stack(refusals).mean(dim=0) - answer)
        same(rows.prompts[i], request_of(annotator, user(request)))
    assert rows.refusals.tolist() == [1.0] * 20


def test_on_the_benign_side_of_legend_the_answer_is_right_and_a_refusal_is_not(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    harmful, benign = ([f"{kind} {i}?" for i in range(20)] for kind in ("Harm", "Help"))
    monkeypatch.setattr(gather_module, "read_requests", lambda harmful=True: benign)
    answering(monkeypatch, {request: "Take a stone." for request in [*harmful, *benign]})
    rows = gathered(annotator, LegendSource(recipe="legend", requests=harmful, two_sided=True))
    assert rows.refusals.tolist() == [1.0] * 20 + [-1.0] * 20
    assert torch.equal(rows.lengths[:20], -rows.lengths[20:])
    for i, request in ((0, harmful[0]), (20, benign[0])):
        *refusals, answer = activations(annotator, user(request), *REFUSALS, "Take a stone.")
        same(rows.differences[i], (torch.stack(refusals).mean(dim=0) - answer) * (1 if i == 0 else -1))


def test_both_sides_of_legend_count_alike_however_many_answers_each_has(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    harmful, benign = ([f"{kind} {i}?" for i in range(20)] for kind in ("Harm", "Help"))
    monkeypatch.setattr(gather_module, "read_requests", lambda harmful=True: benign)
    answering(monkeypatch, {request: "Take a stone." for request in [*harmful, *benign[:10]]})
    rows = gathered(annotator, LegendSource(recipe="legend", requests=harmful, two_sided=True, weight=3.0))
    assert rows.skipped == 10
    assert rows.weights.tolist() == pytest.approx([3.0 * 30 / 40] * 20 + [3.0 * 30 / 20] * 10)


@pytest.mark.parametrize(("harmful_answers", "benign_answers"), [(20, 9), (9, 20), (0, 20)])
def test_a_side_of_legend_that_the_annotator_hardly_answers_is_refused(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch, harmful_answers: int, benign_answers: int
) -> None:
    harmful, benign = ([f"{kind} {i}?" for i in range(20)] for kind in ("Harm", "Help"))
    monkeypatch.setattr(gather_module, "read_requests", lambda harmful=True: benign)
    told = [*harmful[:harmful_answers], *benign[:benign_answers]]
    answering(monkeypatch, {request: "Take a stone." for request in told})
    with pytest.raises(UnfitData, match="answers fewer than 10 of the benign or of the harmful requests"):
        gathered(annotator, LegendSource(recipe="legend", requests=harmful, two_sided=True))


def test_the_annotators_requests_are_the_projects_own_where_none_are_given(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def read_own(*, harmful: bool = True) -> list[str]:
        asked.append("harmful" if harmful else "benign")
        return [f"Question {i}" for i in range(20)]

    monkeypatch.setattr(gather_module, "read_requests", read_own)
    answering(monkeypatch, {f"Question {i}": "Yes." for i in range(20)})
    assert len(gathered(annotator, LegendSource(recipe="legend"))) == 20
    assert asked == ["harmful"]


def test_mixed_sources_keep_their_weights_and_share_families_by_what_was_asked_first(annotator: Annotator) -> None:
    responses = [PlainResponse(prompt=pair.prompt, response=pair.chosen) for pair in kind_or_cruel(25)]
    contrast = ContrastSource(recipe="contrast", responses=responses[15:], weight=0.25, good="Good.", bad="Bad.")
    rows = gathered(annotator, pairs(weight=3.0), contrast)
    assert rows.sources.tolist() == [0] * 20 + [1] * 10
    assert rows.weights.tolist() == [3.0] * 20 + [0.25] * 10
    assert rows.families.tolist() == [*range(20), *range(15, 25)]
    same(rows.differences[:20], gathered(annotator, pairs()).differences)


def test_labelled_responses_beside_pairs_leave_the_pairs_as_they_are(annotator: Annotator) -> None:
    responses = [LabelledResponse(prompt=f"Q {i}", response=KIND[i % 4], label=i % 2) for i in range(6)]
    rows = gathered(annotator, pairs(), LabelledSource(recipe="labelled", responses=responses, weight=2.0))
    assert (rows.sources.tolist(), rows.weights.tolist()) == ([0] * 20 + [1] * 6, [1.0] * 20 + [2.0] * 6)
    same(rows.differences[:20], gathered(annotator, pairs()).differences)


def test_rows_that_do_not_fit_the_window_are_skipped_and_counted(annotator: Annotator) -> None:
    long = Pair(prompt="hi", chosen=LONG, rejected="no")
    wide = PlainResponse(prompt=LONG, response="no")
    fitting = [PlainResponse(prompt=f"Question {i}", response="no") for i in range(4)]
    rows = gathered(
        annotator,
        PairsSource(recipe="pairs", pairs=[long, *kind_or_cruel(20), long]),
        ContrastSource(recipe="contrast", responses=[*fitting, wide], good="Good.", bad="Bad."),
    )
    assert (len(rows), rows.skipped) == (24, 3)
    assert rows.sources.tolist() == [0] * 20 + [1] * 4


def test_what_else_may_tell_the_sides_apart_is_noted(annotator: Annotator) -> None:
    no, yes = "I'm sorry, but I can't help with that.", "Throw a stone."
    sides = [(no, yes), (yes, no), (yes, yes), (no, no)]
    known = [Pair(prompt=f"Question {i}", chosen=a, rejected=b) for i, (a, b) in enumerate(sides * 5)]
    rows = gathered(annotator, PairsSource(recipe="pairs", pairs=known))
    assert rows.refusals.tolist() == [1.0, -1.0, 0.0, 0.0] * 5
    assert rows.lengths.tolist() == [len(no) - len(yes), len(yes) - len(no), 0, 0] * 5
    assert set(rows.balance.tolist()) == {-1}


def test_the_balance_set_as_a_source_keeps_its_places_and_its_own_families() -> None:
    annotator = tiny_annotator()
    annotator.template.window = 320  # for the set's shorter pairs
    rows = gathered(annotator, PairsSource(recipe="pairs", pairs="balance"))
    held = balance()
    assert len(rows) + rows.skipped == len(held.pairs)
    assert 0 < len(rows) < len(held.pairs)
    for i, place in enumerate(rows.balance.tolist()):
        pair = held.pairs[place]
        chosen, rejected = activations(annotator, pair.messages, pair.chosen, pair.rejected)
        same(rows.differences[i], chosen - rejected)
        assert float(rows.refusals[i]) == is_refusal(pair.chosen) - is_refusal(pair.rejected)
    families = [held.families[place] for place in rows.balance.tolist()]
    assert len(set(zip(families, rows.families.tolist(), strict=True))) == len(set(families))


def control(annotator: Annotator, *sites: Site, seed: int) -> SafetyDirection:
    model = (annotator.name, annotator.revision, annotator.template.digest)
    vectors = gaussian(len(sites), annotator.width, seed=seed)
    return new_direction("other", sites, vectors, model=model, recipe="pairs", settings={})


def test_directions_to_compare_with_are_read_wherever_they_read(annotator: Annotator) -> None:
    controls = [
        control(annotator, Site(3, "mean"), Site(0, "last"), seed=1),
        control(annotator, Site(4, "end_of_turn"), seed=2),
    ]
    rows = gathered(annotator, pairs(), controls=controls)
    assert rows.controls.shape == (20, 2)
    same(rows.differences, gathered(annotator, pairs()).differences)
    for i, pair in enumerate(kind_or_cruel(20)):
        group = annotator.template.encode(pair.messages, [pair.chosen, pair.rejected])
        for column, held in enumerate(controls):
            chosen, rejected = held.scores(read(annotator, [group], held.reads)).tolist()
            assert float(rows.controls[i, column]) == pytest.approx(chosen - rejected, abs=1e-3)


def test_progress_is_told_up_to_the_last_group(annotator: Annotator) -> None:
    told: list[tuple[int, int]] = []
    made = plan(annotator, [pairs()], quiet)
    gather(made, LAYERS, REQUEST_LAYER, (), lambda done, total: told.append((done, total)))
    assert told[-1] == (20, 20)
    assert told == sorted(told)


def test_conversations_that_open_alike_are_one_family() -> None:
    turns = [Message(role="system", content="Be kind."), *user("Hi")]
    later = [Message(role="assistant", content="Hello"), *user("And now?")]
    assert opening(user("Hi")) == opening(turns) == opening([*turns, *later]) == "Hi"
    assert opening(user("hi")) != "Hi"
