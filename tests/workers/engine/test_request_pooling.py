"""The pooling `request`: the mean over what is left of the last user turn, whatever stands around it."""

from collections.abc import Sequence

import pytest
import torch
from tokenizers import normalizers
from torch import Tensor

from app.schemas.pairs import Message
from tests.conftest import DEPTH, WINDOW, encode, tiny_annotator, tiny_tokenizer, user
from workers.engine.annotator import Annotator
from workers.engine.forward import read
from workers.engine.packing import Group
from workers.engine.sites import Site

SITES = [Site(layer, "request") for layer in range(DEPTH + 1)]
INVISIBLE = "\u200b"
OLDER = [Message(role="user", content="Is it sharp?"), Message(role="assistant", content="It is sharp. Why?")]


def mean_of_an_unpacked_pass(tokens: Sequence[int], places: slice) -> Tensor:
    """[L, d] mean over these places of a prompt read alone, by transformers' own attention."""
    plain = tiny_annotator()
    plain.model.set_attn_implementation("eager")
    seen: list[Tensor] = []
    for layer in range(plain.depth + 1):
        plain.module_at(layer).register_forward_hook(lambda _m, _i, output: seen.append(output[0]))
    with torch.inference_mode():
        plain.model(torch.tensor([list(tokens)]))
    return torch.stack([hidden[places].mean(dim=0) for hidden in seen])


def last_place(annotator: Annotator, group: Group, text: str) -> slice:
    """Where a text's tokens stand last in the prompt, found without the template's help."""
    wanted = annotator.tokenizer.encode(text, add_special_tokens=False)
    starts = range(len(group.prefix) - len(wanted), -1, -1)
    start = next(i for i in starts if list(group.prefix[i : i + len(wanted)]) == wanted)
    return slice(start, start + len(wanted))


def assert_read_at(annotator: Annotator, group: Group, places: slice) -> None:
    expected = mean_of_an_unpacked_pass(group.prefix, places)
    neighbour = encode(annotator, "A neighbour in the batch, of another length.", "yes")
    found = read(annotator, [neighbour, group], SITES)[1:]
    assert len(found) == len(group.branches)
    for one in found:
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)


def test_it_is_the_mean_over_the_users_text_whatever_the_response(annotator: Annotator) -> None:
    group = encode(annotator, "How do I sharpen a knife?", "Slowly.", "No", "")
    assert_read_at(annotator, group, last_place(annotator, group, "How do I sharpen a knife?"))


def test_of_a_conversation_it_is_the_last_user_turn(annotator: Annotator) -> None:
    group = annotator.template.encode([*OLDER, *user("Is it sharp?")], ["Yes."])
    places = last_place(annotator, group, "Is it sharp?")
    assert places.start > last_place(annotator, group, "It is sharp. Why?").stop
    assert_read_at(annotator, group, places)


def test_truncation_of_older_turns_moves_it(annotator: Annotator) -> None:
    older = [Message(role="user", content="~" * WINDOW), OLDER[1]]
    group = annotator.template.encode([*older, *user("How do I sharpen a knife?")], ["Slowly."], truncate=True)
    assert group.truncated
    assert_read_at(annotator, group, last_place(annotator, group, "How do I sharpen a knife?"))


def test_of_a_turn_that_is_cut_it_is_what_is_left(annotator: Annotator) -> None:
    group = annotator.template.encode(user("+" * WINDOW + "~" * 50), ["- " * 60], truncate=True)
    assert group.truncated
    place = last_place(annotator, group, "~" * 50)
    assert group.prefix[place.start - 1] == annotator.tokenizer.encode("+", add_special_tokens=False)[0]
    assert_read_at(annotator, group, slice(place.stop - group.prompt, place.stop))


def test_of_a_turn_cut_to_its_last_token_it_is_that_token(annotator: Annotator) -> None:
    fixed = encode(annotator, "~", "").size - 1
    group = annotator.template.encode(user("+" * 50 + "~"), ["-" * (WINDOW - fixed - 1)], truncate=True)
    assert group.prompt == 1
    assert_read_at(annotator, group, last_place(annotator, group, "~"))


@pytest.mark.parametrize("truncate", [False, True])
def test_where_nothing_is_left_it_is_the_last_token_before_the_response(truncate: bool) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(INVISIBLE, "")
    annotator = tiny_annotator(tokenizer=tokenizer)
    older = [Message(role="user", content="~" * WINDOW), OLDER[1]] if truncate else OLDER
    group = annotator.template.encode([*older, *user(INVISIBLE)], ["Slowly.", ""], truncate=truncate)
    assert group.truncated == truncate
    assert_read_at(annotator, group, slice(len(group.prefix) - 1, len(group.prefix)))
