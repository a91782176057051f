"""Stage: boxes of a photo dataset's objects, found by a zero-shot detector. Only datasets with a ``detector`` have this stage."""

import sys
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_spatial.config.datasets import DetectorSettings
from vlm_spatial.errors import UserError
from vlm_spatial.files import write_json
from vlm_spatial.models.detector import Detector
from vlm_spatial.progress import progress
from vlm_spatial.scenes.photos import HEIGHT, load_entries, open_photo, upright_size
from vlm_spatial.stages.stage import Job, run_stage


def boxes(job: Job) -> None:
    """Write ``boxes.json``: a boxes file whose boxes have the detector's score as fifth number.

    Photos that cannot be opened are left out here, and set aside with their reason by the scenes stage.
    """
    dataset: dict[str, Any] = job.settings["dataset"]
    settings = DetectorSettings.model_validate(dataset["detector"])
    photos, _ = load_entries(Path(dataset["root"]), dataset["subset"])
    wanted = [photo for photo in photos if photo.relation in ("left_of", "right_of")]
    detector = Detector.load(settings.checkpoint, settings.revision)
    found: dict[str, dict[str, list[float]]] = {}
    for photo in progress(wanted, "detector"):
        try:
            image = Image.fromarray(open_photo(photo.path))
            height = upright_size(photo.path)[1]
        except UserError as error:
            print(f"boxes: {error}", file=sys.stderr, flush=True)
            continue
        detections = {word: detector.best(image, settings.prompt.format(word)) for word in (photo.object, photo.reference)}
        found[photo.name] = {
            word: [round(edge * height / HEIGHT, 2) for edge in detection.box] + [detection.score]
            for word, detection in detections.items()
            if detection is not None
        }
    write_json(found, job.outputs["boxes"])


if __name__ == "__main__":
    run_stage("boxes", boxes)
