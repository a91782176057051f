"""How a model is addressed: what stands around the question."""

from pydantic import Field

from vlm_spatial.config.settings import Settings


class PromptingSettings(Settings):
    """What stands around the question in a chat."""

    system: str = Field("", description="text of a system turn before the question; none if empty (a template may bring its own)")
    answer_prefix: str = Field("", description="text that the answer begins with, such as 'The answer is'")
    chat_template: str | None = Field(
        None, description="name of one of the checkpoint's several chat templates (additional_chat_templates/NAME.jinja)"
    )
