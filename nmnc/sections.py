"""Types of names, seeds and paths in a study's file, and the base class of its sections."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from nmnc.validation import leaves

#: Pattern of names, which become folders, parts of file names and Snakemake wildcards.
NAME_PATTERN, MOST_CHARACTERS = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", 200
Place = TypeVar("Place", str, Path)

#: Before the colon, these name a library of networks and not a module of the user.
LIBRARIES = ("torchvision", "timm")
#: Most bytes in the name of a file or folder (ext4, APFS and others).
MOST_BYTES_OF_A_NAME = 255
#: Characters with a special meaning in Snakemake's paths.
NOT_IN_PATHS = "{}"


def usable_path(value: Place) -> Place:
    """Return the path unchanged; ValueError if it is too long or has characters that Snakemake interprets."""
    text = str(value)
    unusable = next((mark for mark in text if mark in NOT_IN_PATHS or ord(mark) < 32 or ord(mark) == 127), None)
    if unusable is not None:
        raise ValueError(f"a path cannot have the character {unusable!r} here; rename the file or folder")
    if any(0xD800 <= ord(mark) < 0xE000 for mark in text):
        raise ValueError("the path is not UTF-8 text; rename the file or folder")
    if any(len(part.encode()) > MOST_BYTES_OF_A_NAME for part in Path(text).parts) or len(text) > 3000:
        raise ValueError(f"the path is too long ({len(text)} characters); shorten it")
    return value


Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=MOST_CHARACTERS)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
PathText = Annotated[str, Field(min_length=1), AfterValidator(usable_path)]
UserPath = Annotated[Path, AfterValidator(usable_path)]


class Section(BaseModel):
    """Base of all sections: unknown keys are refused and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse booleans for numbers, and numbers for booleans; YAML reads yes and on as true."""
        kinds = leaves(cls.model_fields[str(info.field_name)].annotation)
        booleans = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, bool)]
        if booleans and kinds & {int, float} and bool not in kinds:
            raise ValueError("Input should be a number, not true or false")
        if bool in kinds and not isinstance(value, bool | None):
            raise ValueError("Input should be true or false")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _each_once(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list) and info.field_name not in ("mean", "std") and len(set(value)) != len(value):
            raise ValueError(f"{info.field_name} are repeated; give each once")
        return value
