"""What others do without probes: attention to the image scaled, by one factor or by how sure the answer is; and norms like the text's.

- ``attention``: the last query's scores on all image tokens, before the softmax, times α, in all heads and layers (ScalingVis).
- ``attention_adaptive``: one factor where the untouched answer is less sure than a threshold, another where it is surer (AdaptVis); the
  three are chosen on the validation split.
- ``rotary``: the slow rotary frequencies of the vision encoder turned faster, in the families that have them.
- ``role`` and ``spatial_id``: see :mod:`vlm_spatial.amplification.role`.
- ``norm``: every visual token is given the mean norm of the text's embeddings; α goes from its own norm (0) to that one (1).
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.amplification.edited import EditedRun, Parts
from vlm_spatial.amplification.sweep import Correction, Setting
from vlm_spatial.interventions.labels import CONNECTOR
from vlm_spatial.interventions.patch import InBlocks, Run
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import Rescaled
from vlm_spatial.models.decoder import Layout
from vlm_spatial.models.vision_rotary import rescaled_rotary
from vlm_spatial.scenes.dataset import Dataset

ATTENTION, ADAPTIVE, NORM, ROTARY = "attention", "attention_adaptive", "norm", "rotary"
LANGUAGE = "language"
"""Site of what is done in the whole language model."""
_THRESHOLDS = 10


@dataclass(frozen=True)
class Normed:
    """``alpha = 0`` changes nothing; 1 gives every token the norm ``target``."""

    target: float
    alpha: float

    def __call__(self, values: Float[Tensor, "*any features"]) -> Float[Tensor, "*any features"]:
        length = values.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
        return values + self.alpha * (self.target / length - 1) * values


def norm_settings(adapter: Adapter, dataset: Dataset, asked: pl.DataFrame, alphas: Sequence[float]) -> list[Setting]:
    """The norms of the text's embeddings, at every α; those of the first questions' own tokens."""
    if not alphas:
        return []
    target = text_norm(adapter, dataset, asked)
    return [Setting(CONNECTOR, NORM, 0, alpha, _always(Normed(target, alpha))) for alpha in alphas]


def rotary_settings(adapter: Adapter, dataset: Dataset, asked: pl.DataFrame, alphas: Sequence[float], power: float) -> list[Setting]:
    """What the connector gives where the vision encoder's frequencies are other ones, at every α.

    A vision encoder without rotary positions has none; said on stderr.
    """
    if alphas and adapter.vision_rotary_path is None:
        print(f"amplification.rotary_alphas: the vision encoder of {adapter.family} has no rotary positions; left out", file=sys.stderr)
        return []
    prompt = str(asked["prompt"][0]) if alphas else ""

    def correction(scene: str, alpha: float) -> Correction:
        image = pictures(adapter, dataset, [scene])[scene]
        with rescaled_rotary(adapter, alpha, power):
            values = adapter.run_vision(adapter.prepare([image], [prompt]))[CONNECTOR][0]
        return lambda _own: values

    return [Setting(CONNECTOR, ROTARY, 0, alpha, partial(correction, alpha=alpha)) for alpha in alphas]


def _always(correction: Correction) -> Callable[[str], Correction]:
    return lambda _scene: correction


@torch.inference_mode()
def text_norm(adapter: Adapter, dataset: Dataset, asked: pl.DataFrame) -> float:
    """Mean norm of the embeddings of the prompts' tokens that stand for no picture; of ten questions."""
    norms = []
    for scene, prompt in asked.select("scene_id", "prompt").head(10).iter_rows():
        ids, cells = adapter.tokens(pictures(adapter, dataset, [scene])[scene], prompt)
        behind = ids[0, int(cells.max()) + 1 :]
        norms.append(adapter.model.get_input_embeddings()(behind.to(adapter.device)).float().norm(dim=-1).cpu())
    return float(torch.cat(norms).mean())


def attention_edits(adapter: Adapter, factors: Sequence[float]) -> list[EditedRun]:
    """The last query's scores on the image times each factor."""

    def parts(pair: int, run: Run, factor: float) -> Parts:
        return (InBlocks(pair, scaled(adapter, run, factor)),)

    return [EditedRun(LANGUAGE, ATTENTION, factor, partial(parts, factor=factor)) for factor in factors]


def scaled(adapter: Adapter, run: Run, factor: float) -> Rescaled:
    """The edit: what the last position sees of the image, its keys times a factor, in every layer."""
    layout = Layout.of(adapter, run.image, run.prompt)
    return Rescaled(np.array([-1]), layout.cells_at, 0, len(adapter.language_blocks) - 1, of_keys=factor)


@dataclass(frozen=True)
class Adaptive:
    """Attributes: ``below`` and ``above``, the factors where the untouched answer is less sure than ``threshold``, and where not."""

    threshold: float
    below: float
    above: float

    def rows(self, swept: pl.DataFrame) -> pl.DataFrame:
        """Of ``attention`` rows, those that it picks, as a method of their own whose α is the threshold."""
        factor = pl.when(pl.col("confidence_before") < self.threshold).then(self.below).otherwise(self.above)
        return swept.filter(pl.col("alpha") == factor).with_columns(method=pl.lit(ADAPTIVE), alpha=pl.lit(self.threshold))


def choose_adaptive(validation: pl.DataFrame) -> Adaptive | None:
    """Threshold and factors with the most right answers; the first such of equal ones. None without rows."""
    if validation.is_empty():
        return None
    sure = np.unique(np.quantile(validation["confidence_before"].to_numpy(), np.linspace(0.1, 0.9, _THRESHOLDS - 1)))
    factors = sorted(validation["alpha"].unique())
    every: Iterator[Adaptive] = (Adaptive(float(at), below, above) for at in sure for below in factors for above in factors)
    return max(every, key=lambda one: int(one.rows(validation)["correct"].sum()))
