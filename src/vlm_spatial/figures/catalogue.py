"""The figures of one model that are drawn from rows, in the order of the report (strip maps are drawn from images)."""

from vlm_spatial.figures import accuracy, amplification, dominance, flips, probe_scores
from vlm_spatial.figures.figure import Figure

FIGURES: tuple[Figure, ...] = (
    accuracy.FIGURE,
    probe_scores.FIGURE,
    flips.VISION,
    flips.LANGUAGE,
    dominance.FIGURE,
    amplification.FIGURE,
)
