"""How long, and with how much memory, scenes are chosen from a COCO annotations file as large as the published one of train2017.

``python benchmarks/annotations.py --mb 450`` writes a made file of that size (118,287 images) with empty images, and chooses scenes from it
in a process of its own. Seconds (of the clock, and of the processor) and peak memory go to ``benchmarks/results/annotations.json``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGES_A_MB = 118_287 / 450
CATEGORIES = 80
_CHOOSE = """
import json, resource, sys, time
from pathlib import Path
from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.scenes.sources.registry import source_of
root = Path(sys.argv[1])
settings = dataset_settings(kind="coco", images=str(root / "images"), annotations=str(root / "instances.json"))
started = time.monotonic()
outlook = source_of("coco").outlook(settings)
spent = {"seconds": time.monotonic() - started, "processor_seconds": time.process_time()}
print(json.dumps({**spent, "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, "outlook": outlook}))
"""


def write_annotations(root: Path, mb: float) -> int:
    """Write ``instances.json`` of about this size, and its (empty) images; returns the number of images."""
    generator = np.random.default_rng(0)
    (root / "images").mkdir()
    count = max(10, round(mb * IMAGES_A_MB))
    with (root / "instances.json").open("w", encoding="utf-8") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for image in range(count):
            name = f"{image:012d}.jpg"
            (root / "images" / name).touch()
            entry = {"license": 4, "file_name": name, "coco_url": f"http://images.cocodataset.org/train2017/{name}", "height": 480}
            entry |= {"width": 640, "date_captured": "2013-11-14 11:38:44", "id": image}
            file.write((", " if image else "") + json.dumps(entry))
        file.write('], "annotations": [')
        number = 0
        for image in range(count):
            for _ in range(1 + generator.poisson(6.3)):
                width, height = generator.uniform(20, 200, size=2)
                x, y = generator.uniform(0, 1, size=2) * (640 - width, 480 - height)
                # As long as the published outlines are on average.
                outline = np.round(generator.uniform(0, 480, size=54), 2).tolist()
                box = [round(float(edge), 2) for edge in (x, y, width, height)]
                entry = {"segmentation": [outline], "area": round(width * height / 2, 4), "iscrowd": 0, "image_id": image, "bbox": box}
                entry |= {"category_id": int(generator.integers(CATEGORIES)) + 1, "id": number}
                file.write((", " if number else "") + json.dumps(entry))
                number += 1
        categories = [{"supercategory": "thing", "id": each + 1, "name": f"thing {each}"} for each in range(CATEGORIES)]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    return count


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=float, default=450.0, help="size of the annotations file")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "annotations.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        started = time.monotonic()
        count = write_annotations(root, arguments.mb)
        print(f"made {count} images in {time.monotonic() - started:.0f} s", file=sys.stderr)
        size = (root / "instances.json").stat().st_size / 1e6
        done = subprocess.run([sys.executable, "-c", _CHOOSE, name], capture_output=True, text=True, encoding="utf-8", check=True)
    measured = {"mb": round(size, 1), "images": count, **json.loads(done.stdout)}
    arguments.out.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
