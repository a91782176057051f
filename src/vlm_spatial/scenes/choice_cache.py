"""Choices of photographs, remembered on disk: every start of the workflow asks, and the boxes of train2017 take most of a minute."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlm_spatial.scenes.annotations import Labelled
from vlm_spatial.scenes.chosen import Choices, Chosen
from vlm_spatial.scenes.sources.natural import NaturalSettings
from vlm_spatial.scenes.sources.source import SetAside
from vlm_spatial.workflow.file_cache import FileCache

CACHE = Path(".cache/vlm_spatial/photographs.json")
"""Where choices are remembered, below the working folder; safe to delete."""
LARGE = 4_000_000
"""Bytes of a file of boxes from which on it is worth it."""


def remembered(
    settings: NaturalSettings, boxes: Path, lists: Sequence[Path], make: Callable[[], Choices], cache: Path | None = None
) -> Choices:
    """What ``make`` chooses, or chose when settings, boxes, lists, the folder of images and the code of this package were as they are now.

    A choice whose images are no longer all there is made again.
    """
    images = Path(settings.images)
    if not boxes.is_file() or boxes.stat().st_size < LARGE or not images.is_dir():
        return make()
    known = FileCache(CACHE if cache is None else cache)
    files = [boxes, *lists, images]
    name = "\n".join([settings.model_dump_json(), *(str(path.absolute()) for path in files)])
    code = sorted(Path(__file__).parent.rglob("*.py"))
    found = _choices(known.of(name, [*files, *code], lambda: asdict(make(), dict_factory=_plain)))
    known.save()
    return found if all(path.is_file() for path in found.files()) else make()


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in pairs}


def _choices(plain: dict[str, Any]) -> Choices:
    scenes, items = ([_chosen(one) for one in plain[part]] for part in ("scenes", "items"))
    return Choices(plain["images"], scenes, items, [SetAside(**one) for one in plain["set_aside"]])


def _chosen(plain: dict[str, Any]) -> Chosen:
    objects = tuple(Labelled(one["label"], tuple(one["box"]), one["crowd"]) for one in plain["objects"])
    changed = {"path": Path(plain["path"]), "size": tuple(plain["size"]), "objects": objects, "absent": tuple(plain["absent"])}
    return Chosen(**plain | changed)
