"""How well a reward model reads: pairs of files, the balance set, responses to choose from."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch

from app import __version__
from app.schemas.directions import Accuracy
from app.schemas.rewardreport import BestOfN, PairFigures, RewardReport
from workers.directions.balance import balance
from workers.directions.evaluation import accuracy, calibration_error, platt_slope
from workers.directions.reporting import reliability
from workers.rewards.annotated import Annotated, AnnotatedFile
from workers.rewards.errors import UnfitRows
from workers.rewards.measures import by_quantile, length_figures, loss_of, section_figures, subset_figures
from workers.rewards.model import RewardModel
from workers.rewards.reading import families_of, readable

Progress = Callable[[int, int], None]


def evaluate(
    model: RewardModel,
    files: Sequence[AnnotatedFile],
    *,
    with_balance: bool = False,
    best: BestOfN | None = None,
    progress: Progress = lambda _done, _total: None,
) -> RewardReport:
    """A model's report.

    Args:
        model: the model.
        files: labelled pairs, with margins or without.
        with_balance: whether to measure on the project's balance set, too.
        best: what `best_of_n` found, where that was asked for.
        progress: told how many dialogues of how many of a set are read; may raise to end it.

    Raises:
        UnfitRows: none of a file's pairs can be read.
        UnusableModel: its rewards are no finite numbers.
    """
    sides = _balance_figures(model, progress) if with_balance else {}
    return RewardReport(
        model=model.name,
        model_revision=model.revision,
        template=model.template,
        dtype=str(model.model.dtype).removeprefix("torch."),
        sets=[pair_figures(model, file, progress) for file in files],
        should_respond=sides.get("should_respond"),
        should_refuse=sides.get("should_refuse"),
        best_of_n=best,
        version=__version__,
    )


def pair_figures(
    model: RewardModel, file: AnnotatedFile, progress: Progress = lambda _done, _total: None
) -> PairFigures:
    """How a model reads the pairs of a file.

    Raises:
        UnfitRows: it can read none of them.
        UnusableModel: its rewards are no finite numbers.
    """
    refused: Counter[str] = Counter()
    pairs, texts = readable(model, file.pairs, refused)
    if not pairs:
        raise UnfitRows(f"none of {len(file.pairs)} pairs of {file.name} can be read: {dict(refused)}")
    rewards = model.rewards(texts, progress)
    gaps, families = rewards[::2] - rewards[1::2], families_of(pairs)
    lengths = torch.tensor(list(map(len, texts)), dtype=torch.double)
    subsets = [one.subset for one in pairs]
    margins = [one.margin for one in pairs if one.margin is not None]
    annotated = len(margins) == len(pairs)
    return PairFigures(
        data=file.name,
        pairs=len(pairs),
        refused=dict(refused),
        accuracy=accuracy(gaps, families),
        loss=loss_of(gaps),
        calibration_error=calibration_error(gaps),
        slope=platt_slope(gaps),
        reliability=reliability(gaps),
        quantiles_of="margin" if annotated else "reward difference",
        quantiles=by_quantile(torch.tensor(margins) if annotated else gaps.abs(), gaps, families),
        length=length_figures(gaps, lengths[::2] - lengths[1::2], families),
        subsets=subset_figures(gaps, families, subsets),
        sections=section_figures(gaps, families, subsets),
    )


def _balance_figures(model: RewardModel, progress: Progress) -> dict[str, Accuracy]:
    everything = [Annotated(place, pair) for place, pair in enumerate(balance().pairs)]
    pairs, texts = readable(model, everything, Counter())
    rewards = model.rewards(texts, progress)
    return balance().figures(rewards[::2] - rewards[1::2], torch.tensor([one.line for one in pairs], dtype=torch.long))
