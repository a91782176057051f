"""How much fits into one batch."""

from dataclasses import dataclass

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.tokens import TokenGrid

# On a CPU larger batches only push the activations out of the cache (measured on two cores, width 512).
_CPU_POSITIONS = 4096
_CPU_ROWS = 4
_GIB = 1024**3
# The engine returns whole vocabularies; pairs are handed over in groups whose logits take at most this many bytes.
_LOGITS_BYTES = 512 * 2**20
_GROUP = 20


@dataclass(frozen=True)
class Memory:
    """A limit in GiB: half of it for the states of untouched runs, half for the batch that is running."""

    gib: float

    def rows(self, adapter: Adapter, positions: int, length: int) -> int:
        """Language-model rows that fit into one batch, each computing ``positions`` of its ``length`` positions."""
        width = 3 * adapter.mlp_width + 8 * adapter.width
        row = (positions * width + 2 * length * adapter.key_value_width) * adapter.dtype.itemsize + 4 * adapter.vocabulary
        fitting = int(self.gib * _GIB / 2 / row)
        if adapter.device.type == "cpu":
            fitting = min(fitting, max(_CPU_ROWS, _CPU_POSITIONS // positions))
        return max(1, fitting)

    def images(self, adapter: Adapter, grid: TokenGrid) -> int:
        """Images that fit into one batch of the vision encoder."""
        patches, features = adapter.vision_shape
        # An MLP four times as wide, attention's queries, keys and values, and a few copies.
        image = grid.size * patches * features * 20 * adapter.dtype.itemsize
        fitting = int(self.gib * _GIB / 2 / image)
        return max(1, min(fitting, 8) if adapter.device.type == "cpu" else fitting)

    def pairs(self, adapter: Adapter, length: int, grid: TokenGrid, runs: int, vision_sites: int) -> int:
        """Pairs, of ``runs`` runs each, whose untouched states fit."""
        patches, features = adapter.vision_shape
        depth = len(adapter.language_blocks)
        language = length * depth * (adapter.width + 2 * adapter.key_value_width)
        vision = grid.size * patches * features * vision_sites
        return max(1, int(self.gib * _GIB / 2 / (runs * (language + vision) * adapter.dtype.itemsize)))


def pairs_at_once(vocabulary: int, runs: int) -> int:
    """How many pairs are handed to the engine together, of up to ``runs`` edited runs each, with ``vocabulary`` float32 logits a run."""
    return max(1, min(_GROUP, _LOGITS_BYTES // max(1, 4 * vocabulary * runs)))
