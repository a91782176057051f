"""A zero-shot detector of a real architecture (OWL-ViT) with random weights, in the folder that ``save_pretrained`` writes."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import OwlViTConfig, OwlViTForObjectDetection, OwlViTProcessor, PreTrainedTokenizerFast
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

SIDE = 64
TEXT_LENGTH = 16


def write_tiny_detector(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint folder: two layers a tower, pictures of 64 × 64 pixels, 16 boxes."""
    words = ["a", "photo", "of", "the", "mug", "can", "lamp", "phone", "plate", "book", "bowl", "box"]
    vocabulary = {word: index for index, word in enumerate(["!", "<unk>", "<start>", "<end>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[(token, vocabulary[token]) for token in ("<start>", "<end>")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="!", unk_token="<unk>", bos_token="<start>", eos_token="<end>", model_max_length=TEXT_LENGTH
    )
    towers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = OwlViTConfig(
        text_config={
            **towers,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": TEXT_LENGTH,
            "pad_token_id": 0,
            "bos_token_id": vocabulary["<start>"],
            "eos_token_id": vocabulary["<end>"],
        },
        vision_config={**towers, "image_size": SIDE, "patch_size": 16},
        projection_dim=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OwlViTForObjectDetection(config)
        # transformers leaves the heads' weights as the memory was.
        for name, values in model.named_parameters():
            if values.dim() > 1:
                torch.nn.init.normal_(values, std=values[0].numel() ** -0.5)
            elif "norm" in name and name.endswith("weight"):
                torch.nn.init.ones_(values)
            else:
                torch.nn.init.normal_(values, std=0.1)
        model.save_pretrained(folder)
    image_processor = OwlViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    OwlViTProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder
