"""The protocol of a kind of dataset. Everything about a kind stands in one module ``sources/<kind>.py`` and is listed in
:mod:`vlm_spatial.scenes.sources.registry`.

The modules of the kinds are light: the configuration reads their settings. What needs numpy or Pillow is imported inside the methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from vlm_spatial.scenes.sources.settings import DatasetSettings

if TYPE_CHECKING:
    from PIL import Image

    from vlm_spatial.scenes.pairs import Pair
    from vlm_spatial.scenes.plan import Planned

S = TypeVar("S", bound=DatasetSettings)
About = Callable[[str], AbstractContextManager[None]]
"""``with about("root"):`` puts the configuration's file and the key before a ``UserError`` that is raised inside."""


@dataclass(frozen=True)
class SetAside:
    """A file (or pair of files) that is not used, and why."""

    file: str
    reason: str


@dataclass
class PlannedDataset:
    """What a dataset will hold.

    Attributes:
        drawings: by scene id what ``draw`` makes the image of.
        draw: a module-level function or a method that can be pickled: it runs in other processes.
        set_aside: what is not used, with its reason.
    """

    scenes: list[Planned]
    pairs: list[Pair]
    drawings: Mapping[str, Any]
    draw: Callable[[Any], Image.Image]
    set_aside: list[SetAside] = field(default_factory=list)


@dataclass(frozen=True)
class Unboxed:
    """A photo whose objects a detector has to find: its name in the dataset, its file, and the objects' words."""

    name: str
    path: Path
    words: tuple[str, ...]


class Source(ABC, Generic[S]):
    """A kind of dataset."""

    kind: ClassVar[str]
    settings: type[S]

    @abstractmethod
    def plan(self, settings: S, seed: int, boxes: Path | None = None) -> PlannedDataset:
        """Every scene and pair, and how each image is made.

        Args:
            seed: of the workflow.
            boxes: what the boxes stage found, for settings with a ``boxes_stage``.

        Raises:
            UserError: if a file that the settings name cannot be read, or nothing at all can be made.
        """

    def files(self, settings: S) -> list[Path]:
        """Files from outside whose content the scenes depend on; a changed one has them made again."""
        return []

    def check_paths(self, settings: S) -> None:
        """Refuse paths that do not exist, when the configuration is read.

        Raises:
            UserError: beginning with the key, such as ``root: no folder …``.
        """
        return None

    def check(self, settings: S, about: About) -> None:
        """Refuse files that no job could use, in moments, before any job.

        Raises:
            UserError: naming the file, what was found and what to do.
        """
        return None

    def outlook(self, settings: S) -> str:
        """One line on what will come out, where that is not what the settings ask for; told before a run."""
        return ""

    def object_words(self, settings: S) -> tuple[str, ...]:
        """Every object word that can be an answer, as far as it is known before any job."""
        return ()

    def unboxed(self, settings: S) -> Iterator[Unboxed]:
        """The photos that the boxes stage looks at, for settings with a ``boxes_stage``."""
        return iter(())
