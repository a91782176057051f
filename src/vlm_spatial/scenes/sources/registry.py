"""Every kind of dataset, once. The configuration, the stages, the documentation and the tests read this list."""

from pathlib import Path
from typing import Any

from vlm_spatial.scenes.sources.boxed import Boxed
from vlm_spatial.scenes.sources.coco import Coco
from vlm_spatial.scenes.sources.drawn_kinds import DRAWN
from vlm_spatial.scenes.sources.gqa import Gqa
from vlm_spatial.scenes.sources.source import Source
from vlm_spatial.scenes.sources.whatsup import WhatsUp

SOURCES: tuple[Source[Any], ...] = (*DRAWN, WhatsUp(), Coco(), Gqa(), Boxed())
_BY_KIND = {source.kind: source for source in SOURCES}
KINDS: tuple[str, ...] = tuple(_BY_KIND)


def source_of(kind: str) -> Source[Any]:
    """The kind of dataset of this name (a ``KeyError`` for others: settings of another kind do not validate)."""
    return _BY_KIND[kind]


def dataset_files(values: dict[str, Any]) -> list[Path]:
    """Files from outside whose content a dataset with these (valid, plain) settings depends on, or its boxes."""
    source = source_of(values["kind"])
    return source.files(source.settings.model_validate(values))
