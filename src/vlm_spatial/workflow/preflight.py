"""Files from outside that a configuration names, judged before any job: a mistake found here costs a second, in a job an hour.

Only what can be told in moments: nothing is loaded, and of weights and photos no more than the beginning is read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlm_spatial.config.datasets import DatasetSettings
from vlm_spatial.config.workflow import Config
from vlm_spatial.config.yaml_files import Source
from vlm_spatial.errors import UserError
from vlm_spatial.models.folder import check_folder, config_file
from vlm_spatial.models.weights import check_weights


def check_outside(config: Config, source: Source) -> None:
    """Refuse checkpoints, detectors, photos and boxes that no job could use, and a results folder that is none.

    Args:
        config: validated; folders that it names exist.
        source: the configuration's files, for messages.

    Raises:
        UserError: naming the key, the file, what was found and what to do.
    """
    results = Path(config.results)
    with _about(source, "results"):
        for path in (results, *results.parents):
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is a file; move it, or give another folder")
    for name, model in config.models.items():
        if model.checkpoint is not None and not model.is_hub_id:
            with _about(source, f"models.{name}.checkpoint"):
                check_folder(Path(model.checkpoint))
    for name, dataset in config.datasets.items():
        if dataset.root is not None:
            _check_photos(Path(dataset.root), dataset, source, f"datasets.{name}")


@contextmanager
def _about(source: Source, key: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{source.at(key)}: {key}: {error}") from error


def _check_photos(root: Path, dataset: DatasetSettings, source: Source, key: str) -> None:
    # Pillow takes longer to import than all else here, and is needed for photos only.
    from vlm_spatial.scenes.boxes_file import read_boxes
    from vlm_spatial.scenes.photos import load_entries, upright_size

    with _about(source, f"{key}.root"):
        photos, set_aside = load_entries(root, dataset.subset)
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
    if dataset.boxes is not None:
        with _about(source, f"{key}.boxes"):
            boxes = read_boxes(Path(dataset.boxes))
            if not any(photo.name in boxes for photo in wanted):
                raise UserError(
                    f"{dataset.boxes}: has boxes for none of {len(wanted)} photos; its keys must be image_path as in the list of photos, "
                    f"such as {wanted[0].name}, found {next(iter(boxes), 'none')}"
                )
    if dataset.detector is not None and Path(dataset.detector.checkpoint).is_dir():
        with _about(source, f"{key}.detector.checkpoint"):
            config_file(Path(dataset.detector.checkpoint))
            check_weights(Path(dataset.detector.checkpoint))
