"""How a model is addressed: what stands around the question."""

import hashlib

from pydantic import Field

from vlm_spatial.config.settings import Settings


class PromptingSettings(Settings):
    """What stands around the question in a chat."""

    system: str = Field("", description="text of a system turn before the question; none if empty (a template may bring its own)")
    answer_prefix: str = Field("", description="text that the answer begins with, such as 'The answer is'")
    chat_template: str | None = Field(
        None, description="name of one of the checkpoint's several chat templates (additional_chat_templates/NAME.jinja)"
    )

    @property
    def digest(self) -> str:
        """Hash of what the model reads; empty where nothing is set."""
        said = self.model_dump_json(exclude_defaults=True)
        return "" if said == "{}" else hashlib.sha256(said.encode()).hexdigest()[:16]
