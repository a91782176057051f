"""A small set of made photographs with known boxes, as COCO's JSON and as CSV."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

THINGS = {
    "dining table": "brown",
    "umbrella": "purple",
    "scissors": "teal",
    "tv": "black",
    "Äpfel": "red",
    "杯子": "blue",
    "pizza": "orange",
}
COLUMNS = "image,label,x,y,width,height"


def write_natural_set(root: Path, count: int = 12, seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """Write ``count`` images of three things each (and a fourth that occurs twice) below ``root``; returns their true boxes, [x, y, w, h].

    Things stand on one diagonal, so that each image makes a scene on both axes.
    """
    generator = np.random.default_rng(seed)
    (root / "photos").mkdir(parents=True)
    names = list(THINGS)
    categories = [{"id": number + 1, "name": name} for number, name in enumerate([*names, "person"])]
    images, annotations, truth = [], [], {}
    for number in range(count):
        width, height = ((480, 360), (360, 480), (400, 400))[number % 3]
        image = Image.fromarray(generator.integers(150, 250, (height, width, 3)).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        file = f"photo {number:02d} ü.jpg"
        images.append({"id": 1000 + number, "file_name": file, "width": width, "height": height})
        boxes = {}
        for place, thing in enumerate(generator.permutation(len(names))[:3]):
            x, y = (0.05 + 0.3 * place) * width, (0.08 + 0.3 * place) * height
            box = [round(value) for value in (x, y, 0.18 * width + 4 * (number % 2), 0.2 * height)]
            draw.rectangle((box[0], box[1], box[0] + box[2] - 1, box[1] + box[3] - 1), fill=THINGS[names[thing]])
            boxes[names[thing]] = box
            annotations.append(
                {"image_id": 1000 + number, "category_id": int(thing) + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
        for left in (0, 1):
            box = [left * (width - 20), height - 15, 20, 15]
            annotations.append({"image_id": 1000 + number, "category_id": len(names) + 1, "bbox": box, "area": 300, "iscrowd": 0})
        image.save(root / "photos" / file, quality=95)
        truth[file] = boxes
    for number, annotation in enumerate(annotations):
        annotation["id"] = number
        annotation["segmentation"] = [[1.5, 2.5, 3.5, 4.5, 5.5, 6.5]]
    everything = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(everything, ensure_ascii=False), encoding="utf-8")
    lines = [COLUMNS, *(f"{file},{thing},{x},{y},{w},{h}" for file, boxes in truth.items() for thing, (x, y, w, h) in boxes.items())]
    (root / "boxes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return truth
