"""Many interventions on a model: next-token logits of every patched run."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.interventions.patch import PairRuns, Patch
from vlm_spatial.interventions.reference import clean_edits, run_plain
from vlm_spatial.models.adapter import Adapter


class PatchEngine:
    """Runs patches exactly as the plain full forward with hooks does.

    Args:
        adapter: the model.
        memory_gb: limit for the tensors of one packed batch.
    """

    def __init__(self, adapter: Adapter, memory_gb: float = 4.0) -> None:
        self.adapter = adapter
        self.memory_gb = memory_gb

    def clean(self, pairs: Sequence[PairRuns]) -> Float[Tensor, "pairs vocabulary"]:
        """Last-position logits of every pair's clean run, float32 on the CPU."""
        rows = []
        for pair in pairs:
            prepared = self.adapter.prepare([pair.clean.image], [pair.clean.prompt])
            rows.append(self.adapter.run(prepared, edits=clean_edits(pair.clean))[0].cpu())
        return torch.cat(rows) if rows else torch.empty(0, self.adapter.vocabulary)

    def run(self, pairs: Sequence[PairRuns], patches: Sequence[Patch]) -> Float[Tensor, "patches vocabulary"]:
        """Last-position logits of every patched run, float32 on the CPU, in the order of ``patches``.

        Raises:
            UserError: for pairs or patches that do not fit, before anything runs.
        """
        return run_plain(self.adapter, pairs, patches)
