"""``kind: whatsup``: photos of two objects, named and listed as What'sUp publishes them, and merges of two photos."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vlm_spatial.config.settings import Settings, UserPath
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.one_token import FILE, check_tokenizer, left_out
from vlm_spatial.scenes.sources.halves import HALVES, HalvesOf
from vlm_spatial.scenes.sources.settings import DatasetSettings
from vlm_spatial.scenes.sources.source import About, PlannedDataset, Source, Unboxed


class DetectorSettings(Settings):
    """A zero-shot object detector of transformers (OWL-ViT, OWLv2, Grounding DINO, ...) that finds the boxes of photos."""

    checkpoint: UserPath = Field(description="hub id such as google/owlv2-base-patch16-ensemble, or a folder")
    revision: str | None = Field(None, description="commit of a hub id; required for one")
    score: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="score from which a box counts as certain; photos with a box below half of it are set aside"
    )
    prompt: str = Field("a photo of a {}", description="what the detector is asked for, with {} for the object's name")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not Path(self.checkpoint).is_dir() and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError("revision: a hub checkpoint needs the 40-digit commit it is pinned to, and a folder must exist")
        if self.prompt.count("{}") != 1:
            raise ValueError("prompt: must hold {} once, where the object's name goes")
        return self


class WhatsUpSettings(DatasetSettings):
    """Photos in What'sUp's format, and three-object merges of them."""

    kind: Literal["whatsup"]
    axes: tuple[Literal["horizontal", "vertical"], ...] = Field(("horizontal",), description="photos are merged side by side")
    root: UserPath | None = Field(None, description="required: the folder that holds data/controlled_*_dataset.json")
    subset: Literal["A", "B"] = Field("B", description="A controlled_images, B controlled_clevr")
    halves: HalvesOf | None = Field(
        None,
        description="join the halves of two squeezed photos, with boxes made by hand, on the canvas of this model (as published, of subset "
        "A); by default photos are aligned on the reference and merged",
    )
    one_token_in: UserPath | None = Field(
        None,
        description="folder of a checkpoint: leave out objects whose name, as it is or with a capital, is more than one token there (as "
        "published)",
    )
    boxes: UserPath | None = Field(
        None,
        description="a JSON file of boxes; without it (and without a detector) they are found by comparing the photos",
    )
    detector: DetectorSettings | None = Field(None, description="find the boxes with a zero-shot detector instead")

    @property
    def boxes_stage(self) -> dict[str, Any] | None:
        """Settings of the boxes stage: all that the boxes depend on."""
        return self.model_dump(mode="json", include={"kind", "root", "subset", "detector"}) if self.detector is not None else None

    @model_validator(mode="after")
    def _of_photos(self) -> Self:
        if "content" in self.templates:
            raise ValueError("templates: 'content' needs objects known to be absent, which photos do not give; leave it out for whatsup")
        if self.root is None:
            raise ValueError("root: a whatsup dataset needs the folder that holds data/controlled_*_dataset.json")
        if self.axes != ("horizontal",):
            raise ValueError(
                "axes: photos are merged side by side, so whatsup has the horizontal axis only; name it alone or leave axes out"
            )
        if self.boxes and self.detector:
            raise ValueError("boxes and detector: give one of them, or neither")
        if self.halves and (self.boxes or self.detector or self.variants.mirror):
            raise ValueError("halves: their boxes are made by hand, the same for all photos; leave out boxes, detector and variants.mirror")
        return self

    @property
    def shared_middle(self) -> bool:
        return self.halves is not None

    @property
    def laid_out(self) -> tuple[int, int] | None:
        return None if self.halves is None else (HALVES[self.halves].canvas, HALVES[self.halves].grid)

    @property
    def checkpoints(self) -> dict[str, Path]:
        """The detector's folder."""
        local = self.detector is not None and Path(self.detector.checkpoint).is_dir()
        return {"detector.checkpoint": Path(self.detector.checkpoint)} if self.detector and local else {}

    @property
    def folder(self) -> Path:
        """``root`` as a path."""
        return Path(self.root or "")


class WhatsUp(Source[WhatsUpSettings]):
    """Photos in What'sUp's format."""

    kind = "whatsup"
    settings = WhatsUpSettings

    def plan(self, settings: WhatsUpSettings, seed: int, boxes: Path | None = None) -> PlannedDataset:
        from vlm_spatial.scenes.photo_dataset import plan_photos
        from vlm_spatial.scenes.photo_halves import plan_halves

        if settings.halves is not None:
            return plan_halves(settings, seed)
        return plan_photos(settings, seed, boxes)

    def files(self, settings: WhatsUpSettings) -> list[Path]:
        found: list[Path] = []
        for entry in sorted((settings.folder / "data").glob("controlled_*")):
            found += files_below(entry) if entry.is_dir() else [entry]
        if settings.boxes is not None:
            found.append(Path(settings.boxes))
        if settings.one_token_in is not None:
            found.append(Path(settings.one_token_in) / FILE)
        for folder in settings.checkpoints.values():
            found += files_below(folder)
        return found

    def check_paths(self, settings: WhatsUpSettings) -> None:
        if not (settings.folder / "data").is_dir():
            raise UserError(f"root: no folder {str(settings.folder / 'data')!r}; give the folder that holds it")
        if settings.one_token_in is not None:
            check_tokenizer(Path(settings.one_token_in))
        if settings.boxes is not None and not Path(settings.boxes).is_file():
            raise UserError(f"boxes: no file {settings.boxes!r}; give a JSON file of boxes, or leave boxes out")

    def check(self, settings: WhatsUpSettings, about: About) -> None:
        from vlm_spatial.scenes.boxes_file import read_boxes
        from vlm_spatial.scenes.opening import upright_size
        from vlm_spatial.scenes.photos import usable_entries

        root = settings.folder
        with about("root"):
            photos, set_aside = usable_entries(root, settings.subset, settings.one_token_in)
            wanted = [photo for photo in photos if photo.relation in ("left_of", "right_of")]
            if not wanted:
                first = f"; the first is {set_aside[0].file}: {set_aside[0].reason}" if set_aside else ""
                raise UserError(f"{root}: lists no usable photo of one object left or right of another, {len(set_aside)} set aside{first}")
            reasons = []
            for photo in wanted:
                try:
                    upright_size(photo.path)
                    break
                except UserError as error:
                    reasons.append(str(error))
            else:
                raise UserError(f"{root}: none of {len(wanted)} photos can be read; the first: {reasons[0]}")
        if settings.boxes is not None:
            with about("boxes"):
                boxes = read_boxes(Path(settings.boxes))
                if not any(photo.name in boxes for photo in wanted):
                    raise UserError(
                        f"{settings.boxes}: has boxes for none of {len(wanted)} photos; its keys must be image_path as in the list of "
                        f"photos, such as {wanted[0].name}, found {next(iter(boxes), 'none')}"
                    )

    def object_words(self, settings: WhatsUpSettings) -> tuple[str, ...]:
        from vlm_spatial.scenes.photos import usable_entries

        photos, _ = usable_entries(settings.folder, settings.subset, settings.one_token_in)
        return tuple(sorted({word for photo in photos for word in (photo.object, photo.reference)}))

    def unboxed(self, settings: WhatsUpSettings) -> Iterator[Unboxed]:
        from vlm_spatial.scenes.photos import usable_entries

        for photo in usable_entries(settings.folder, settings.subset, settings.one_token_in)[0]:
            if photo.relation in ("left_of", "right_of"):
                yield Unboxed(photo.name, photo.path, (photo.object, photo.reference))

    def outlook(self, settings: WhatsUpSettings) -> str:
        from vlm_spatial.scenes.photos import load_entries

        if settings.one_token_in is None:
            return ""
        photos, _ = load_entries(settings.folder, settings.subset)
        return left_out((photo.object for photo in photos), Path(settings.one_token_in))


def files_below(folder: Path) -> list[Path]:
    """Every file below ``folder`` whose name does not begin with a dot, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
