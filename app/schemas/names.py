"""Names that users give, and plain numbers; every schema may use them."""

from typing import Annotated

from pydantic import Field, StringConstraints

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
NAME_TAKES = "takes letters, digits, dots, dashes and underscores"

Name = Annotated[str, StringConstraints(pattern=NAME)]
DirectionId = Name
PoolId = Name
RuleId = Name
BankId = Name
AdapterId = Name
AlignmentId = Name
RewardId = Name
Finite = Annotated[float, Field(allow_inf_nan=False)]
