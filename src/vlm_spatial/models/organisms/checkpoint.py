"""New checkpoint folders of real architectures, with random weights and a word-level tokenizer.

What comes out is an ordinary transformers checkpoint: ``AutoModelForImageTextToText`` and ``AutoProcessor`` load it,
and nothing of this package is needed for that.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlm_spatial.errors import UserError
from vlm_spatial.files import write_json, written_then_renamed
from vlm_spatial.models.families import family
from vlm_spatial.models.recipe import TINY, Recipe, Size


def new_checkpoint(folder: Path, name: str, words: Sequence[str], seed: int = 0, size: Size = TINY) -> Path:
    """Write a checkpoint folder with random weights, whole or not at all.

    An image of the default canvas becomes 6 × 6 visual tokens. Every word is one token, so an answer's first token is
    the same with and without a prompt before it.

    Args:
        folder: where to write; an existing folder is replaced.
        name: of the family, one of :data:`vlm_spatial.models.families.NAMES`.
        words: every word that prompts and answers may hold; texts are split at white space and punctuation.
        seed: of the weights.
        size: depths and widths.

    Returns:
        ``folder``.

    Raises:
        UserError: for an unknown family or no words.
    """
    recipe = family(name).recipe
    tokenizer = word_tokenizer(words, recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = recipe.model(tokenizer, size)
    with written_then_renamed(folder) as temporary:
        temporary.mkdir()
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for file, content in recipe.processor_files(size).items():
            write_json(content, temporary / file)
    return folder


def word_tokenizer(words: Sequence[str], recipe: Recipe) -> PreTrainedTokenizerFast:
    """A tokenizer that knows ``words`` and the family's special tokens; anything else is ``<unk>``. Pads on the left.

    Raises:
        UserError: if ``words`` is empty.
    """
    if not words:
        raise UserError("organism words: found none; give the words that prompts and answers are made of")
    special = recipe.special
    split = pre_tokenizers.Whitespace()
    turns = (recipe.turns.user, recipe.turns.model)
    pieces = {piece for text in (*words, *turns) for piece, _ in split.pre_tokenize_str(text)}
    vocabulary = [*special.values(), *sorted(pieces - set(special.values()))]
    backend = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = split
    standard = {"pad_token", "eos_token", "bos_token", "unk_token"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        padding_side="left",
        chat_template=recipe.template,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={name: token for name, token in special.items() if name not in standard},
        **{name: token for name, token in special.items() if name in standard},
    )
