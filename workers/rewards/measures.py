"""What is measured of rewards: nothing here knows a model."""

from torch import Tensor
from torch.nn.functional import softplus

from app.schemas.rewards import HeldOut
from workers.directions.evaluation import accuracy, calibration_error


def held_out_figures(step: int, gaps: Tensor, families: Tensor) -> HeldOut:
    """How [n] reward differences read the pairs of these families after some step."""
    return HeldOut(
        step=step,
        loss=float(softplus(-gaps).mean()),
        accuracy=accuracy(gaps, families),
        calibration_error=calibration_error(gaps),
    )
