"""One module a model family, and the one list of them.

Nothing is imported until a family is asked for, so that folders can be judged without torch.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from vlm_spatial.errors import UserError

if TYPE_CHECKING:
    from vlm_spatial.models.adapter import Adapter

ARCHITECTURES: Mapping[str, str | Mapping[str, str]] = MappingProxyType(
    {
        "Gemma3ForConditionalGeneration": "gemma3",
        "Qwen2VLForConditionalGeneration": "qwen2_vl",
        "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
        "LlavaForConditionalGeneration": {"clip_vision_model": "llava", "pixtral": "pixtral"},
        "InternVLForConditionalGeneration": "internvl",
        "SmolVLMForConditionalGeneration": "smolvlm",
        "Idefics3ForConditionalGeneration": "idefics3",
        "LlavaOnevisionForConditionalGeneration": "llava_onevision",
        "PaliGemmaForConditionalGeneration": "paligemma",
        "Qwen3VLForConditionalGeneration": "qwen3_vl",
        "Mistral3ForConditionalGeneration": "mistral3",
    }
)
"""Family of every supported class name in ``config.json``; where vision encoders of several kinds go by one name, by their ``model_type``,
transformers' default first."""

OWN_TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        # As its processor writes prompts: image, begin mark, question, newline.
        "PaliGemmaForConditionalGeneration": """\
{%- for message in messages -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'image' -%}{{ '<image>' + bos_token }}
{%- elif item['type'] == 'text' -%}{{ item['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '\\n' }}
{%- endfor -%}
""",
    }
)
"""Chat templates of architectures whose checkpoints have none, since they are not trained on chats."""

NAMES: tuple[str, ...] = tuple(
    name for known in ARCHITECTURES.values() for name in ((known,) if isinstance(known, str) else known.values())
)
"""Every supported family."""


def family_name(architecture: str, vision: str | None = None) -> str:
    """The family of a class name.

    Args:
        architecture: the class name.
        vision: ``model_type`` of the vision encoder's configuration, if it names one.

    Raises:
        UserError: for an unsupported class, or an unsupported vision encoder of it.
    """
    if architecture not in ARCHITECTURES:
        # Most names end alike, which says nothing.
        alike = difflib.get_close_matches(_stem(architecture), map(_stem, ARCHITECTURES), n=1, cutoff=0.5)
        closest = f"the closest supported one is {next(one for one in ARCHITECTURES if _stem(one) == alike[0])}, " if alike else ""
        raise UserError(
            f"architecture {architecture} is not supported; {closest}supported are {', '.join(ARCHITECTURES)} (a new one is one module in "
            "src/vlm_spatial/models/families)"
        )
    known = ARCHITECTURES[architecture]
    if isinstance(known, str):
        return known
    name = known.get(vision or next(iter(known)))
    if name is None:
        raise UserError(f"vision_config.model_type {vision} of {architecture} is not supported; allowed are {', '.join(known)}")
    return name


def _stem(architecture: str) -> str:
    return architecture.removesuffix("ForConditionalGeneration").removesuffix("ForCausalLM")


def family(name: str) -> "type[Adapter]":
    """The adapter of a family.

    Raises:
        UserError: for an unknown name.
    """
    from vlm_spatial.models.families import (
        gemma3,
        internvl,
        llava,
        llava_onevision,
        mistral3,
        paligemma,
        pixtral,
        qwen2_5_vl,
        qwen2_vl,
        qwen3_vl,
        smolvlm,
    )

    adapters: tuple[type[Adapter], ...] = (
        gemma3.Gemma3Adapter,
        qwen2_vl.Qwen2VLAdapter,
        qwen2_5_vl.Qwen25VLAdapter,
        llava.LlavaAdapter,
        internvl.InternVLAdapter,
        smolvlm.SmolVLMAdapter,
        smolvlm.Idefics3Adapter,
        llava_onevision.LlavaOnevisionAdapter,
        paligemma.PaliGemmaAdapter,
        qwen3_vl.Qwen3VLAdapter,
        pixtral.PixtralAdapter,
        mistral3.Mistral3Adapter,
    )
    by_name: dict[str, type[Adapter]] = {adapter.family: adapter for adapter in adapters}
    if name not in by_name:
        raise UserError(f"model family {name!r}: allowed are {', '.join(NAMES)}")
    return by_name[name]


def family_of(architecture: str, vision: str | None = None) -> "type[Adapter]":
    """The adapter for a class name that ``config.json`` names, and its vision encoder; see :func:`family_name`."""
    return family(family_name(architecture, vision))
