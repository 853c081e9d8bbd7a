"""`safemargin generate`: what the annotator answers, and beside it what it answers as it was aligned."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import orjson
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from app.alignments import AlignmentMissing, Alignments
from app.artifacts import Artifacts
from app.schemas.alignment import AlignmentCard
from app.schemas.pairs import Message
from app.settings import settings
from cli import loading
from cli.saying import failure, progress_of

if TYPE_CHECKING:
    from workers.engine.annotator import Annotator

Which = Literal["aligned", "taught", "preferred", "dispreferred"]


def generate(
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="A prompt; once or more.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="JSONL with `prompt`, text or messages; or .csv with `request`, `goal`, `Behavior` or `prompt`.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(help="Id of an alignment, or a folder of peft's files; without one the annotator alone answers."),
    ] = None,
    which: Annotated[Which | None, typer.Option(help="Of the alignment's models, aligned where left out.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where answers are cut.")] = 128,
    out: Annotated[Path | None, typer.Option(help="Write JSONL there instead of a table.")] = None,
) -> None:
    """Answer prompts, most likely token first, as the annotator is and as it was aligned."""
    from workers.alignment.errors import AlignmentError
    from workers.directions.errors import UnfitData
    from workers.engine.errors import EngineError

    if out is not None and not out.parent.is_dir():
        raise failure(f"{out} cannot be written: there is no folder {out.parent}")
    card = _alignment(adapter, which)
    try:
        conversations = _conversations(prompt or [], prompts)
        annotator = loading.annotator()
        models = {"base": annotator}
        if adapter is not None:
            models["adapted"] = _adapted(annotator, adapter, card, which or "aligned")
        answers = _answers(models, conversations, max_new_tokens)
    except (AlignmentError, AlignmentMissing, UnfitData, EngineError, OSError) as error:
        raise failure(str(error)) from error
    name = f"{card.id}, {which or 'aligned'}" if card else str(adapter)
    if out is None:
        _show(conversations, answers, {"base": annotator.name, "adapted": name})
        return
    revisions = {f"{side}_revision": model.revision for side, model in models.items()}
    with out.open("wb") as file:
        for messages, said in zip(conversations, _rows(answers), strict=True):
            told = [message.model_dump() for message in messages]
            file.write(orjson.dumps({"prompt": told, **said, **revisions}) + b"\n")


def _alignment(adapter: str | None, which: Which | None) -> AlignmentCard | None:
    """The card of the alignment that is meant; None where it is a folder, or nothing.

    Raises:
        typer.BadParameter: the model asked for is none of the alignment's.
        typer.Exit: there is no such alignment.
    """
    if adapter is None or Path(adapter).is_dir():
        if which is not None:
            raise typer.BadParameter("goes with the id of an alignment", param_hint="--which")
        return None
    try:
        card = Alignments(Artifacts(settings().artifacts_url)).card(adapter)
    except AlignmentMissing as error:
        raise failure(f"{error}, nor a folder of that name") from error
    if which is not None and not any(file.startswith(f"{which}/") for file in card.files):
        raise typer.BadParameter(f"{card.id} has no {which} model", param_hint="--which")
    return card


def _conversations(texts: Sequence[str], path: Path | None) -> list[list[Message]]:
    """What to answer.

    Raises:
        UnfitData: the file cannot be read, or there is nothing.
    """
    from workers.directions.datafiles import FilePrompt, read_rows
    from workers.directions.errors import UnfitData
    from workers.directions.legend import read_requests

    found = [[Message(role="user", content=text)] for text in texts if text.strip()]
    if path is not None and path.suffix == ".csv":
        found += [[Message(role="user", content=text)] for text in read_requests(path, harmful=None)]
    elif path is not None:
        found += [row.messages for row in read_rows(path, FilePrompt)]
    if not found:
        raise UnfitData("there is nothing to answer: --prompt or --prompts says what")
    return found


def _adapted(annotator: "Annotator", adapter: str, card: AlignmentCard | None, which: str) -> "Annotator":
    from workers.alignment.shelved import ALIGNED, shelved
    from workers.alignment.taught import taught

    if card is None:
        return taught(annotator, Path(adapter))
    entry = shelved(Alignments(Artifacts(settings().artifacts_url)), card.id, card.digest, annotator)
    return (entry.aligned(annotator) if which == ALIGNED else entry.model(annotator, which)).annotator


def _answers(
    models: "dict[str, Annotator]", conversations: Sequence[Sequence[Message]], max_new_tokens: int
) -> dict[str, list[str]]:
    """What each model says to each conversation.

    Raises:
        PairRefused: a conversation does not fit the window with its answer.
    """
    from workers.engine.generate import greedy_answers

    template = models["base"].template
    asked = [template.encode(messages, [""]).prefix for messages in conversations]
    longest = min(max_new_tokens, template.window - max(map(len, asked)))
    found: dict[str, list[str]] = {}
    with progress_of("the prompts") as progress:
        for number, (side, model) in enumerate(models.items()):
            before, total = number * len(asked), len(models) * len(asked)

            def tell(done: int, before: int = before, total: int = total) -> None:
                progress(before + done, total)

            found[side] = greedy_answers(model, asked, max_new_tokens=longest, progress=tell)
    return found


def _rows(answers: dict[str, list[str]]) -> Iterator[dict[str, str]]:
    for said in zip(*answers.values(), strict=True):
        yield dict(zip(answers, said, strict=True))


def _show(conversations: Sequence[Sequence[Message]], answers: dict[str, list[str]], names: dict[str, str]) -> None:
    table = Table(Column("prompt", ratio=1), *(Column(Text(names[side]), ratio=2) for side in answers), show_lines=True)
    for messages, said in zip(conversations, _rows(answers), strict=True):
        table.add_row(Text(messages[-1].content), *map(Text, said.values()))
    Console().print(table)
