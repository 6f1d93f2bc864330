"""Tables of settings, strict about their keys, and the numbers that stand in them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MOST = 10**9  # of anything that is counted; what goes beyond it is a slip of the pen
Positive = Annotated[int, Field(ge=1, le=MOST)]
Natural = Annotated[int, Field(ge=0, le=MOST)]
Width = Annotated[int, Field(ge=1, le=2**20)]  # of a model: a dimension, or a number of layers or heads
Repeats = Annotated[int, Field(ge=1, le=100_000)]  # of one case
Weight = Annotated[float, Field(ge=0, le=1e6)]
Price = Annotated[float, Field(ge=0, le=1e6)]
Pace = Annotated[float, Field(ge=1e-3, le=1e12)]
Rate = Annotated[float, Field(gt=0, lt=10)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
NAME_LENGTH = 80
MOST_CASES = 100_000  # of one part of a suite, or demonstrations
Temperature = Annotated[float, Field(ge=0, le=2)]
CaseCount = Annotated[int, Field(ge=1, le=MOST_CASES)]


class Section(BaseModel):
    """A table of a study file: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_switch(cls, value: Any, info: ValidationInfo) -> Any:
        """No true for 1, nor false for 0."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("true or false, where a number or a text is expected")
        return value
