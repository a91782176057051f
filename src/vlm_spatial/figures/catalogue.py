"""The figures of one model that are drawn from rows, in the order of the report (strip maps are drawn from images)."""

from vlm_spatial.figures import (
    ablated,
    accuracy,
    amplification,
    amplification_detail,
    correction_transfer,
    crosswise,
    displaced,
    dominance,
    flips,
    geometry,
    last_token,
    merge_effect,
    probe_scores,
    routes,
    strip_indices,
    training,
)
from vlm_spatial.figures.figure import Figure

FIGURES: tuple[Figure, ...] = (
    accuracy.FIGURE,
    merge_effect.FIGURE,
    probe_scores.FIGURE,
    strip_indices.FIGURE,
    geometry.OVERLAP,
    geometry.ANGLES,
    flips.VISION,
    flips.LANGUAGE,
    crosswise.FIGURE,
    last_token.FIGURE,
    displaced.FIGURE,
    dominance.FIGURE,
    routes.DIAGRAM,
    routes.BY_LAYER,
    ablated.FIGURE,
    amplification.FIGURE,
    amplification_detail.GROUPS,
    amplification_detail.TRANSFER,
    correction_transfer.FIGURE,
    training.FIGURE,
)
