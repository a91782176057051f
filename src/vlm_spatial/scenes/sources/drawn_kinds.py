"""The kinds of datasets whose scenes are drawn. An organism can be trained on these only, and its code depends on no other."""

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.sources.drawn import Drawn
from vlm_spatial.scenes.sources.objects import Objects
from vlm_spatial.scenes.sources.shapes import Shapes
from vlm_spatial.scenes.sources.squares import Squares

DRAWN: tuple[Drawn, ...] = (Squares(), Shapes(), Objects())
_BY_KIND = {source.kind: source for source in DRAWN}


def drawn_source(kind: str) -> Drawn:
    """The drawn kind of this name.

    Raises:
        UserError: if scenes of this kind are not drawn.
    """
    if kind not in _BY_KIND:
        allowed = ", ".join(_BY_KIND)
        raise UserError(f"datasets kind {kind!r}: its scenes are photos and cannot be sampled or drawn; allowed are {allowed}")
    return _BY_KIND[kind]
