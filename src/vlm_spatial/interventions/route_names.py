"""The routes that can be closed: which tokens no longer attend to which."""

from dataclasses import dataclass
from typing import NamedTuple

from vlm_spatial.config.routes import RouteName


class Piece(NamedTuple):
    """Queries that no longer attend to keys: two token groups (:mod:`vlm_spatial.interventions.token_groups`)."""

    keys: str
    queries: str


@dataclass(frozen=True)
class Route:
    """Attributes: ``pieces``, closed together; ``has_random``, whether as many random cells from outside the keys can be closed instead."""

    pieces: tuple[Piece, ...]
    has_random: bool = False


_BETWEEN = tuple(Piece(f"strip.{there}", f"strip.{here}") for here in range(3) for there in range(3) if here != there)

ROUTES: dict[RouteName, Route] = {
    "image_to_question": Route((Piece("image", "question"),)),
    "image_to_answer": Route((Piece("image", "answer"),)),
    "question_to_answer": Route((Piece("question", "answer"),)),
    "image_to_both": Route((Piece("image", "question"), Piece("image", "answer"))),
    "object_to_question": Route((Piece("object", "question"),), has_random=True),
    "reference_to_question": Route((Piece("reference", "question"),), has_random=True),
    "rim_to_question": Route((Piece("rim", "question"),), has_random=True),
    "strip_to_question": Route((Piece("strip", "question"),), has_random=True),
    "background_to_question": Route((Piece("background", "question"),)),
    "object_to_answer": Route((Piece("object", "answer"),), has_random=True),
    "reference_to_answer": Route((Piece("reference", "answer"),), has_random=True),
    "rim_to_answer": Route((Piece("rim", "answer"),), has_random=True),
    "strip_to_answer": Route((Piece("strip", "answer"),), has_random=True),
    "background_to_answer": Route((Piece("background", "answer"),)),
    "between_slots": Route(_BETWEEN),
    "background_to_objects": Route((Piece("background", "objects"),)),
}
"""Each route by its name. The last two lie inside the image."""
