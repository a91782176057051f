"""``quirks``: what the published run does otherwise than its text, or than the model's own code; nothing by default."""

import hashlib

from pydantic import Field

from vlm_spatial.config.settings import Count, PositiveCount, Settings


class QuirkSettings(Settings):
    """Oddities of the published run, to see which published numbers rest on them. Each is named in the report while it is on."""

    running_positions: bool = Field(
        False,
        description="families with rotary positions of time, row and column: every token gets its running number three times instead",
    )
    second_bos: bool = Field(False, description="begin every prompt with one begin-of-sequence token more than the chat template writes")
    shifted_cells: Count = Field(
        0, description="visual tokens by which the crosswise sweep and the neutral ablation miss their cells, towards the image's end"
    )
    background_cells: PositiveCount | None = Field(
        None, description="the neutral ablation replaces background among the first so many cells only; objects everywhere"
    )

    @property
    def digest(self) -> str:
        """Hash of what is on; empty where nothing is."""
        said = self.model_dump_json(exclude_defaults=True)
        return "" if said == "{}" else hashlib.sha256(said.encode()).hexdigest()[:16]

    def named(self) -> tuple[str, ...]:
        """A sentence for each one that is on."""
        found = {
            "image tokens have running numbers for rotary positions, not rows and columns": self.running_positions,
            "prompts begin with a second begin-of-sequence token": self.second_bos,
            f"the crosswise sweep and the neutral ablation miss their cells by {self.shifted_cells} token": self.shifted_cells,
            f"the neutral ablation leaves the background alone behind cell {self.background_cells}": self.background_cells,
        }
        return tuple(sentence for sentence, on in found.items() if on)
