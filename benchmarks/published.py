"""Published processors of Qwen2-VL, Gemma-3 and Pixtral: tokenizers with the chat templates and image settings that go with them."""

import json
import shutil
from pathlib import Path

# As in the checkpoint's chat_template.json, but for videos.
QWEN2_VL_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# As the checkpoint's chat_template.json has it for one turn: the system text stands in the user's turn, and is a plain text.
PIXTRAL_TEMPLATE = (
    "{{ bos_token }}{% set said = '' %}{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST]' + (said if loop.last else '') }}{% for content in message['content'] %}"
    "{{ '[IMG]' if content['type'] == 'image' else content['text'] }}{% endfor %}{{ '[/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {"qwen2_vl": QWEN2_VL_TEMPLATE, "pixtral": PIXTRAL_TEMPLATE}

PREPROCESSORS = {
    "qwen2_vl": {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 12_845_056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "gemma3": {
        "image_processor_type": "Gemma3ImageProcessor",
        "processor_class": "Gemma3Processor",
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_pan_and_scan": None,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_seq_length": 256,
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": 896, "width": 896},
    },
    "pixtral": {
        "image_processor_type": "PixtralImageProcessor",
        "processor_class": "PixtralProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "patch_size": {"height": 16, "width": 16},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": 1024},
    },
}
"""``preprocessor_config.json`` as published."""

_COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.json", "chat_template.jinja", "preprocessor_config.json")


def write_processor(folder: Path, family: str, tokenizer: Path) -> None:
    """Write a processor as published into a checkpoint's folder.

    Args:
        tokenizer: folder with the published ``tokenizer.json`` and ``tokenizer_config.json``. The chat template and the image settings
            are taken from there, too, if they are there.
    """
    for name in _COPIED:
        if (tokenizer / name).is_file():
            shutil.copy2(tokenizer / name, folder)
    if not (folder / "preprocessor_config.json").is_file():
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSORS[family]), encoding="utf-8")
    if family == "gemma3":
        whole = {"image_seq_length": 256, "processor_class": "Gemma3Processor"}
        (folder / "processor_config.json").write_text(json.dumps(whole), encoding="utf-8")
    elif not any((folder / name).is_file() for name in ("chat_template.json", "chat_template.jinja")):
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATES[family]}), encoding="utf-8")
