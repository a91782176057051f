"""A small set of made photos in What'sUp's format: a table before a wall, one fixed camera, drawn things with shadows."""

import json
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 1120, 840
RELATIONS = {"left_of": "to the left of", "right_of": "to the right of", "in-front_of": "in front of", "behind": "behind"}
THINGS = {
    "mug": (90, 120, 210),
    "plate": (235, 235, 230),
    "bowl": (200, 60, 60),
    "can": (60, 160, 80),
    "book": (230, 170, 40),
    "phone": (150, 60, 170),
    "lamp": (240, 120, 170),
    "box": (150, 100, 50),
}


def table(generator: np.random.Generator) -> Image.Image:
    """The empty scene, with the slight change of exposure that each photo has."""
    rows = np.linspace(0, 1, HEIGHT)[:, None, None]
    wall, top = np.array([224, 218, 202.0]), np.array([120, 104, 88.0])
    pixels = np.where(rows < 0.28, wall - 30 * rows, top - 45 * rows)
    pixels = np.broadcast_to(pixels, (HEIGHT, WIDTH, 3)) + generator.normal(0, 1, (HEIGHT, WIDTH, 3)) + generator.uniform(-4, 4)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def put(image: Image.Image, thing: str, x: float, y: float, size: float) -> tuple[float, float, float, float]:
    """Draw ``thing`` standing at ``(x, y)``, with a soft shadow; returns its true box."""
    kind = list(THINGS).index(thing)
    width, height = size * (1.2 if kind % 2 else 0.8), size * (0.7 if kind % 3 == 1 else 1.0)
    box = (round(x - width / 2), round(y - height), round(x + width / 2), round(y))
    shade = Image.new("L", image.size)
    ImageDraw.Draw(shade).ellipse((box[0] + 4, box[3] - 12, box[2] + 10, box[3] + 14), fill=90)
    image.paste((30, 26, 22), mask=shade.filter(ImageFilter.GaussianBlur(8)))
    draw = ImageDraw.Draw(image)
    paint = draw.ellipse if kind % 3 == 1 else draw.rectangle
    paint((box[0], box[1], box[2] - 1, box[3] - 1), fill=THINGS[thing])
    return (*box,)


def photo(thing: str, relation: str, reference: str, seed: int) -> tuple[Image.Image, dict[str, tuple[float, float, float, float]]]:
    """One photo and its true boxes."""
    generator = np.random.default_rng(seed)
    image = table(generator)
    jitter = generator.uniform(-15, 15, size=2)
    left, right, front, back = (330, 560, 190), (760, 560, 190), (545, 740, 240), (545, 420, 130)
    places = {"left_of": (left, right), "right_of": (right, left), "in-front_of": (front, back), "behind": (back, front)}[relation]
    order = sorted(zip((thing, reference), places, strict=True), key=lambda item: item[1][1])
    boxes = {word: put(image, word, x + jitter[0], y + jitter[1], size) for word, (x, y, size) in order}
    return image, boxes


def write_photo_set(
    root: Path,
    references: tuple[str, ...] = ("plate", "book"),
    things: tuple[str, ...] = tuple(THINGS),
    relations: tuple[str, ...] = tuple(RELATIONS),
) -> dict[str, dict]:
    """Write the set below ``root`` as the published one is laid out; returns the true boxes by ``image_path``."""
    folder = root / "data/controlled_clevr"
    folder.mkdir(parents=True)
    entries, truth = [], {}
    pairs = [(thing, reference) for reference in references for thing in things if thing != reference]
    for index, (thing, reference) in enumerate(pairs):
        for number, (relation, words) in enumerate(RELATIONS.items()):
            if relation not in relations:
                continue
            name = f"data/controlled_clevr/{thing}_{relation}_{reference}.jpeg"
            image, boxes = photo(thing, relation, reference, seed=10 * index + number)
            image.save(root / name, quality=92)
            truth[name] = {word: list(box) for word, box in boxes.items()}
            captions = [f"A {thing} {said} a {reference}" for said in sorted(RELATIONS.values(), key=lambda said: said != words)]
            entries.append({"image_path": name, "caption_options": captions})
    (root / "data/controlled_clevr_dataset.json").write_text(json.dumps(entries), encoding="utf-8")
    return truth


def write_subset_a(root: Path) -> None:
    """Subset A as the published one is laid out: things left and right of a chair and of a table, whatever they look like here."""
    folder = root / "data/controlled_images"
    folder.mkdir(parents=True)
    entries = []
    for index, (thing, (reference, drawn)) in enumerate(product(list(THINGS)[:6], (("chair", "lamp"), ("table", "box")))):
        for relation in ("left_of", "right_of"):
            name = f"data/controlled_images/{thing}_{relation}_{reference}.jpeg"
            photo(thing, relation, drawn, seed=index)[0].resize((WIDTH // 4, HEIGHT // 4)).save(root / name, quality=92)
            said = [RELATIONS[relation], *(words for other, words in RELATIONS.items() if other != relation)]
            entries.append({"image_path": name, "caption_options": [f"A {thing} {words} a {reference}" for words in said]})
    (root / "data/controlled_images_dataset.json").write_text(json.dumps(entries), encoding="utf-8")
