"""Names that users give, what they stand for, and plain numbers; every schema may use them."""

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
FILE_ID = r"^file-[0-9a-f]{32}$"
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


class Ref(BaseModel):
    """Something stored, by its name and by its content: what a name stands for can change under running work."""

    id: str
    digest: str
