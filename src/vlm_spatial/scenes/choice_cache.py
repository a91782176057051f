"""Choices of photographs, remembered on disk: every start of the workflow asks, and the boxes of train2017 take most of a minute."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
    """What ``make`` chooses, or chose when settings, boxes, lists, folders of images and the code of this package were as they are now.

    A choice whose images are no longer all there is made again, and so is one that rests on the sizes of the files themselves.
    """
    images = Path(settings.images)
    if not boxes.is_file() or boxes.stat().st_size < LARGE or not images.is_dir():
        return make()
    known = FileCache(CACHE if cache is None else cache)
    name = "\n".join([settings.model_dump_json(), *(str(path.absolute()) for path in (boxes, *lists, images))])
    # A file that comes or goes changes its folder.
    watched = [boxes, *lists, *folders(images), *sorted(Path(__file__).parent.rglob("*.py"))]
    found = _choices(known.of(name, watched, lambda: asdict(make(), dict_factory=_plain)))
    known.save()
    return found if not found.measured and all(path.is_file() for path in found.files()) else make()


def folders(root: Path) -> Iterator[Path]:
    """``root`` and every folder below it, links followed, each once."""
    seen: set[str] = set()
    for folder, below, _ in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()
        yield Path(folder)


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in pairs}


def _choices(plain: dict[str, Any]) -> Choices:
    scenes, items = ([_chosen(one) for one in plain[part]] for part in ("scenes", "items"))
    return Choices(plain["images"], scenes, items, [SetAside(**one) for one in plain["set_aside"]], plain["measured"], plain["listed"])


def _chosen(plain: dict[str, Any]) -> Chosen:
    changed = {name: tuple(plain[name]) for name in ("size", "labels", "absent")}
    return Chosen(**plain | changed | {"path": Path(plain["path"]), "boxes": tuple(map(tuple, plain["boxes"]))})
