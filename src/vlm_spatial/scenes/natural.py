"""The dataset that chosen photographs make: its scenes, their mirror images, their pairs."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlm_spatial.errors import UserError
from vlm_spatial.progress import progress
from vlm_spatial.scenes.chosen import Choices, Chosen
from vlm_spatial.scenes.natural_drawing import PictureDrawing, draw_picture, letterbox, natural_scene
from vlm_spatial.scenes.natural_pairs import add_pairs
from vlm_spatial.scenes.opening import open_upright, upright_size
from vlm_spatial.scenes.plan import Planned, Split, scene_name
from vlm_spatial.scenes.scene import CANVAS, Variant, mirrored
from vlm_spatial.scenes.sources.natural import ListedSettings, NaturalSettings
from vlm_spatial.scenes.sources.source import PlannedDataset, SetAside
from vlm_spatial.tokens import Axis


def plan_natural(settings: NaturalSettings, chosen: Choices, seed: int) -> PlannedDataset:
    """The dataset of the scenes chosen, without those whose pictures cannot be opened.

    Raises:
        UserError: if no picture at all can be opened.
    """
    planned = PlannedDataset([], [], {}, draw_picture, list(chosen.set_aside))
    drawings: dict[str, PictureDrawing] = {}
    planned.drawings = drawings
    opened = _Opened(planned.set_aside)
    numbers: Counter[tuple[Variant, Axis, Split]] = Counter()
    tests: dict[Axis, list[tuple[Planned, PictureDrawing]]] = defaultdict(list)
    # Told apart by their list: of two objects, a scene may be the same as an item.
    listed = [*((one, False) for one in chosen.scenes), *((one, True) for one in chosen.items)]
    for one, is_item in progress(listed, "photos"):
        if not opened.fits(one):
            continue
        of_variant: Variant = "photo" if is_item else "main"
        place = (of_variant, one.axis, one.split)
        number = numbers[place]
        numbers[place] += 1
        scene = natural_scene(one, settings.kind, of_variant, number, settings.canvas)
        if is_item:
            of_subject = isinstance(settings, ListedSettings) and settings.items_ask == "subject"
            scene = replace(scene, both_orders=True, asked=(one.subject,) if of_subject and one.subject is not None else None)
        item = Planned(scene_name(*place, number), one.split, scene, "file")
        drawing = PictureDrawing(one.path, *letterbox(one.size, settings.canvas))
        planned.scenes.append(item)
        drawings[item.scene_id] = drawing
        if one.split == "test" and not is_item:
            tests[one.axis].append((item, drawing))
        if settings.variants.mirror and one.split == "test" and one.axis == "horizontal":
            # Told apart from the mirrors of main scenes by their number.
            name = scene_name("mirror", one.axis, one.split, number if not is_item else 50_000 + number)
            planned.scenes.append(replace(item, scene_id=name, scene=mirrored(scene), mirrored_from=item.scene_id))
            drawings[name] = replace(drawing, flipped=True)
    if not planned.scenes:
        first = planned.set_aside[-1]
        raise UserError(f"{settings.images}: none of {len(chosen.files())} photos can be used; the last: {first.file}: {first.reason}")
    for axis in settings.axes:
        add_pairs(planned, drawings, tests[axis], axis, settings, seed)
    return planned


@dataclass
class _Opened:
    """Whether a photograph can be opened and has the size that its boxes are of; each is looked at once."""

    set_aside: list[SetAside]
    known: dict[Path, bool] = field(default_factory=dict)

    def fits(self, one: Chosen) -> bool:
        if one.path not in self.known:
            self.known[one.path] = self._fits(one)
        return self.known[one.path]

    def _fits(self, one: Chosen) -> bool:
        try:
            size = upright_size(one.path)
            open_upright(one.path, (2 * CANVAS, 2 * CANVAS))
        except UserError as error:
            self.set_aside.append(SetAside(one.image, str(error).removeprefix(f"{one.path}: ")))
            return False
        if size != one.size:
            turned = ", lying where the photo stands" if size == one.size[::-1] else ""
            reason = f"is {size[0]}×{size[1]}, its boxes are of {one.size[0]}×{one.size[1]}{turned}"
            self.set_aside.append(SetAside(one.image, reason))
            return False
        return True
