"""Zero-shot object detectors of transformers: where in a picture is the thing that a text names?

Any checkpoint that ``AutoModelForZeroShotObjectDetection`` loads: OWL-ViT, OWLv2, Grounding DINO, MM Grounding DINO, OmDet-Turbo.
"""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoProcessor

from vlm_spatial.errors import UserError
from vlm_spatial.models.load import checkpoint_folder
from vlm_spatial.tokens import Box


@dataclass(frozen=True)
class Detection:
    """The best box for one text, in pixels of the picture, and the detector's score for it, 0 to 1."""

    box: Box
    score: float


class Detector:
    """A loaded detector; use :meth:`load`."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor

    @classmethod
    def load(cls, checkpoint: str, revision: str | None = None) -> "Detector":
        """Load a folder or hub id: safetensors only, float32, on a GPU where there is one.

        Raises:
            UserError: if it cannot be had, is no zero-shot detector, or has not all of its weights.
        """
        folder = checkpoint_folder(checkpoint, revision)
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model, report = AutoModelForZeroShotObjectDetection.from_pretrained(
                folder, config=config, use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"detector {checkpoint}: cannot be loaded as a zero-shot object detector ({reason}); "
                "give a checkpoint such as OWL-ViT, OWLv2 or Grounding DINO with weights as safetensors"
            ) from error
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise UserError(
                f"detector {checkpoint}: its weights lack {len(missing)} tensors that config.json calls for, such as {missing[0]}"
            )
        if not hasattr(processor, "post_process_grounded_object_detection"):
            raise UserError(f"detector {checkpoint}: {type(processor).__name__} makes no boxes; allowed are zero-shot object detectors")
        return cls(model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor)

    @torch.inference_mode()
    def best(self, image: Image.Image, text: str) -> Detection | None:
        """The highest-scoring box for ``text``, clipped to the picture; None if nothing is left of it.

        One text at a time, so that a box belongs to it whatever a family makes of several.
        """
        inputs = self.processor(images=image, text=[[text]], return_tensors="pt").to(self.model.device)
        outputs = self.model(**inputs)
        [found] = self.processor.post_process_grounded_object_detection(outputs, threshold=0.0, target_sizes=[(image.height, image.width)])
        for index in found["scores"].argsort(descending=True, stable=True).tolist():
            left, top, right, bottom = (float(edge) for edge in found["boxes"][index])
            box = (max(0.0, left), max(0.0, top), min(float(image.width), right), min(float(image.height), bottom))
            if box[0] < box[2] and box[1] < box[3]:
                return Detection(box, float(found["scores"][index]))
        return None
