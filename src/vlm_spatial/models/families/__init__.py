"""One module a model family, and the one list of them.

Nothing is imported until a family is asked for, so that folders can be judged without torch.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from vlm_spatial.errors import UserError

if TYPE_CHECKING:
    from vlm_spatial.models.adapter import Adapter

ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Gemma3ForConditionalGeneration": "gemma3",
        "Qwen2VLForConditionalGeneration": "qwen2_vl",
        "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
        "LlavaForConditionalGeneration": "llava",
        "InternVLForConditionalGeneration": "internvl",
        "SmolVLMForConditionalGeneration": "smolvlm",
        "Idefics3ForConditionalGeneration": "idefics3",
        "LlavaOnevisionForConditionalGeneration": "llava_onevision",
        "PaliGemmaForConditionalGeneration": "paligemma",
        "Qwen3VLForConditionalGeneration": "qwen3_vl",
    }
)
"""Family of every supported class name in ``config.json``."""

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

NAMES: tuple[str, ...] = tuple(dict.fromkeys(ARCHITECTURES.values()))
"""Every supported family."""


def family(name: str) -> "type[Adapter]":
    """The adapter of a family.

    Raises:
        UserError: for an unknown name.
    """
    from vlm_spatial.models.families import gemma3, internvl, llava, llava_onevision, paligemma, qwen2_5_vl, qwen2_vl, qwen3_vl, smolvlm

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
    )
    by_name: dict[str, type[Adapter]] = {adapter.family: adapter for adapter in adapters}
    if name not in by_name:
        raise UserError(f"model family {name!r}: allowed are {', '.join(NAMES)}")
    return by_name[name]


def family_of(architecture: str) -> "type[Adapter]":
    """The adapter for a class name that ``config.json`` names.

    Raises:
        UserError: for an unsupported one.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"architecture {architecture}: supported are {', '.join(ARCHITECTURES)}")
    return family(ARCHITECTURES[architecture])
