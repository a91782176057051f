"""Stage: boxes of a photo dataset's objects, found by a zero-shot detector. Only datasets with a ``detector`` have this stage."""

import sys

from PIL import Image

from vlm_spatial.errors import UserError
from vlm_spatial.files import write_json
from vlm_spatial.models.detector import Detector
from vlm_spatial.progress import progress
from vlm_spatial.scenes.opening import upright_size
from vlm_spatial.scenes.photos import HEIGHT, open_photo
from vlm_spatial.scenes.sources.registry import dataset_files, source_of
from vlm_spatial.scenes.sources.whatsup import DetectorSettings
from vlm_spatial.stages.stage import Job, run_stage


def boxes(job: Job) -> None:
    """Write ``boxes.json``: a boxes file whose boxes have the detector's score as fifth number.

    Photos that cannot be opened are left out here, and set aside with their reason by the scenes stage.
    """
    source = source_of(job.settings["dataset"]["kind"])
    dataset = source.settings.model_validate(job.settings["dataset"])
    settings = DetectorSettings.model_validate(job.settings["dataset"]["detector"])
    detector = Detector.load(settings.checkpoint, settings.revision)
    found: dict[str, dict[str, list[float]]] = {}
    for photo in progress(list(source.unboxed(dataset)), "detector"):
        try:
            image = Image.fromarray(open_photo(photo.path))
            height = upright_size(photo.path)[1]
        except UserError as error:
            print(f"boxes: {error}", file=sys.stderr, flush=True)
            continue
        detections = {word: detector.best(image, settings.prompt.format(word)) for word in photo.words}
        found[photo.name] = {
            word: [round(edge * height / HEIGHT, 2) for edge in detection.box] + [detection.score]
            for word, detection in detections.items()
            if detection is not None
        }
    write_json(found, job.outputs["boxes"])


if __name__ == "__main__":
    run_stage("boxes", boxes, outside=dataset_files)
