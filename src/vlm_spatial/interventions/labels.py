"""Names that the intervention tables use, shared by what writes and what reads them (no torch here)."""

CONNECTOR = "connector"
INTACT = "intact"
CONTENT = "content"
"""The template that is not spatial."""
LANGUAGE_ERASED = "ordering_erased"
"""Ablation of the language ordering: the slot erased from the object tokens from the peak layer on."""

ABLATION_CONTROLS = {"neutral": "own_place", "erasure": "erasure_shuffled"}
"""Each ablation of the vision signal, and the condition that does the same and leaves the layout: objects alone in their own places, and
shuffled slots erased."""

INTENDED = {
    "vision": "flip",
    "language": "ordering",
    "displaced": "ordering",
    "conflict": "move",
    "crosswise": "flip",
    "mirror": "flip",
    "last_token": "ordinal",
}
"""The hypothesis of each experiment whose share is its flip rate, and whose log-odds are held against ``stay``."""


def joined(vision: str, language: str) -> str:
    """Name of the condition under which both ablations hold; an intact vision signal goes without saying."""
    return language if vision == INTACT else f"{vision}+{language}"
