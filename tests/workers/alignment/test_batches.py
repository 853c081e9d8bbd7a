"""What a model is shown: the same response tokens whatever the instruction, and nothing that does not fit."""

import torch

from app.schemas.pairs import Pair
from tests.conftest import encode
from workers.alignment.batches import Predictions, Showing, answer_rows, both, chosen, either, rejected
from workers.alignment.losses import log_probabilities, per_response
from workers.engine.annotator import Annotator
from workers.engine.attention import packed
from workers.engine.packing import Layout

PAIRS = [
    Pair(prompt="How do I sharpen a knife?", chosen="Slowly.", rejected="I can't help with that request."),
    Pair(prompt="hi", chosen="hello there", rejected=""),
    Pair(prompt="What is the time? " * 9, chosen="Late.", rejected="no"),
]
SHORT, LONG = "Be good.", "Be bad, and whatever you do be as long about it as this instruction is."


def showing(annotator: Annotator, query: int = 60, response: int = 12) -> Showing:
    return Showing(annotator.template, (SHORT, LONG), query, response)


def test_the_tokens_of_the_responses_line_up_whatever_the_lengths_of_the_instructions(annotator: Annotator) -> None:
    shown = [showing(annotator).show(item) for item in both(PAIRS)]
    sides = [Layout.of([one.groups[side] for one in shown], annotator.device) for side in (0, 1)]
    rows = [answer_rows(layout) for layout in sides]
    assert len(sides[0].tokens) != len(sides[1].tokens)
    assert len(rows[0]) == sum(one.answers for one in shown)
    assert torch.equal(sides[0].tokens[rows[0]], sides[1].tokens[rows[1]])
    for layout in sides:  # each continues from the end of its own prompt
        starts = layout.positions[layout.branch_rows[:, 0]]
        assert torch.equal(starts, layout.prefix_lengths[layout.parents])


def test_they_also_line_up_where_other_items_are_in_the_pass(annotator: Annotator) -> None:
    shown = [showing(annotator).show(item) for item in both(PAIRS)]
    alone = Layout.of([shown[2].groups[0]], annotator.device)
    together = Layout.of([one.groups[1] for one in shown], annotator.device)
    assert torch.equal(alone.tokens[answer_rows(alone)], together.tokens[answer_rows(together)][-shown[2].answers :])


def test_a_packed_likelihood_is_that_of_the_padded_batch_of_the_paper(annotator: Annotator) -> None:
    """Prompts padded on the left, responses on the right, labels shifted by one, padding in no sum."""
    groups = [group for item in both(PAIRS) for group in showing(annotator).show(item).groups]
    layout = Layout.of(groups, annotator.device)
    asked = Predictions.of(layout)
    with torch.inference_mode():
        with packed(layout):
            logits = annotator.model(layout.tokens[None], position_ids=layout.positions[None]).logits[0]
        found = per_response(log_probabilities(logits[asked.before], asked.tokens), asked.owners, len(layout.parents))
        rows = [(group.prefix, branch.tokens) for group in groups for branch in group.branches]
        before, after = max(len(prompt) for prompt, _ in rows), max(len(answer) for _, answer in rows)
        tokens = torch.zeros(len(rows), before + after, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, (prompt, answer) in enumerate(rows):
            tokens[row, before - len(prompt) : before + len(answer)] = torch.tensor([*prompt, *answer])
            mask[row, before - len(prompt) : before + len(answer)] = 1
        places = (mask.cumsum(1) - 1).clamp(min=0)
        padded = annotator.model(tokens, attention_mask=mask, position_ids=places).logits.log_softmax(-1)
    picked = padded[:, before - 1 : -1].gather(2, tokens[:, before:, None])[..., 0]
    torch.testing.assert_close(found, (picked * mask[:, before:]).sum(1))


def test_a_token_is_predicted_from_the_one_before_it(annotator: Annotator) -> None:
    groups = [encode(annotator, "hi", "yes", ""), encode(annotator, "what?", "no")]
    layout = Layout.of(groups, annotator.device)
    asked = Predictions.of(layout)
    assert torch.equal(layout.tokens[answer_rows(layout)], asked.tokens)
    firsts = [asked.owners.tolist().index(owner) for owner in range(3)]
    lasts = [len(groups[0].prefix) - 1, len(groups[0].prefix) - 1, groups[0].size + len(groups[1].prefix) - 1]
    assert asked.before[firsts].tolist() == lasts
    assert torch.equal(layout.positions[asked.before] + 1, layout.positions[answer_rows(layout)])


def test_the_same_of_a_conversation_is_cut_under_every_instruction(annotator: Annotator) -> None:
    admitted = showing(annotator, query=20).admit(both(PAIRS))
    assert (len(admitted.items), admitted.refused, admitted.cut) == (3, 0, 1)
    first, second = showing(annotator, query=20).show(both(PAIRS)[2]).groups
    assert first.prompt == second.prompt == 20
    assert first.prefix[-30:] == second.prefix[-30:]


def test_what_does_not_fit_even_so_is_refused_and_counted(annotator: Annotator) -> None:
    long = Showing(annotator.template, (SHORT, "x" * 300), 60, 12)
    admitted = long.admit(both(PAIRS))
    assert (admitted.items, admitted.refused) == ([], 3)


def test_which_responses_are_shown() -> None:
    assert [item.responses for item in both(PAIRS)] == [(pair.chosen, pair.rejected) for pair in PAIRS]
    assert [item.responses for item in chosen(PAIRS)] == [(pair.chosen,) for pair in PAIRS]
    assert [item.responses for item in rejected(PAIRS)] == [(pair.rejected,) for pair in PAIRS]
    lots = [either(PAIRS * 9, seed) for seed in (0, 0, 1)]
    assert lots[0] == lots[1] != lots[2]
    assert {pair.chosen for pair in PAIRS} & {item.responses[0] for item in lots[0]}
    assert {pair.rejected for pair in PAIRS} & {item.responses[0] for item in lots[0]}
