"""What the stages need for Qwen2-VL-7B on one dataset with the default settings: the table of docs/cluster.md. Computed, not measured.

python benchmarks/cluster_needs.py

Counts come from the settings' defaults, sizes from the model's published config.json, and times are arithmetic over an assumed speed: a
third of an A100's bfloat16 peak, and disks that write as fast as the extraction was measured to (benchmarks/extraction.py).
"""

from dataclasses import dataclass

from vlm_spatial.config.ablation import AblationSettings
from vlm_spatial.config.activations import ActivationsSettings
from vlm_spatial.config.amplification import AmplificationSettings
from vlm_spatial.config.behaviour import BehaviourSettings
from vlm_spatial.config.conflict import ConflictSettings
from vlm_spatial.config.interchange import InterchangeSettings
from vlm_spatial.scenes.sources.settings import Pairs, Splits, Variants
from vlm_spatial.tokens import AXES

FLOPS_PER_S = 100e12
STORE_BYTES_PER_S = 230e6
# 448 pixels in patches of 14, four patches a visual token; a question and the chat template around it.
PATCHES, VISUAL_TOKENS, TEXT_TOKENS = 1024, 256, 30
# Templates times slots: rows of questions.parquet for each scene.
QUESTIONS_A_SCENE = 9
# What a question adds to the image and what stands before it.
QUESTION_TOKENS = 15
BYTES = 2
CONTEXT_GB = 2.0


@dataclass(frozen=True)
class Blocks:
    """A stack of transformer blocks; ``keys`` is the width of keys and values, ``matrices`` how many an MLP has."""

    depth: int
    width: int
    hidden: int
    keys: int
    matrices: int

    @property
    def parameters(self) -> int:
        return self.depth * (2 * self.width**2 + 2 * self.width * self.keys + self.matrices * self.width * self.hidden)

    def flops(self, positions: int) -> float:
        """Of one forward pass: two a parameter and position, and attention's two products."""
        return 2.0 * self.parameters * positions + 4.0 * self.depth * positions**2 * self.width


VISION = Blocks(depth=32, width=1280, hidden=5120, keys=1280, matrices=2)
LANGUAGE = Blocks(depth=28, width=3584, hidden=18944, keys=512, matrices=3)
VOCABULARY = 152_064
MERGER = 5120 * 5120 + 5120 * 3584
PARAMETERS = VISION.parameters + MERGER + LANGUAGE.parameters + 2 * VOCABULARY * LANGUAGE.width

ENCODE = VISION.flops(PATCHES)
ANSWER = LANGUAGE.flops(VISUAL_TOKENS + TEXT_TOKENS)
VISION_SITES, LANGUAGE_SITES = VISION.depth + 1, LANGUAGE.depth + 1


def scenes_of(splits: Splits, names: tuple[str, ...] = ("train", "validation", "test")) -> int:
    return len(AXES) * sum(getattr(splits, name) for name in names)


def flops() -> dict[str, float]:
    """Of each stage that runs the model. A patch at a random layer recomputes half of its stack."""
    variants, pairs = Variants(), Pairs()
    every = scenes_of(Splits()) + scenes_of(variants.decorrelated)
    asked = BehaviourSettings().splits
    answered = scenes_of(Splits(), asked) + scenes_of(variants.decorrelated, asked)
    interchange, ablation, amplification = InterchangeSettings(), AblationSettings(), AmplificationSettings()
    vision_pairs, language_pairs, conflict_pairs = (len(AXES) * count for count in (pairs.vision, pairs.language, pairs.conflict))

    vision_patches = vision_pairs * VISION_SITES * len(interchange.token_sets) * (2 if interchange.unrelated_control else 1)
    # Objects and random cells, at every site.
    language_patches = language_pairs * LANGUAGE_SITES * 2
    conditions = 1 + len(ablation.methods)
    questions = len(AXES) * ablation.questions
    # Fitted on training scenes and read out on as many test scenes, under every condition.
    fitted = len(AXES) * 2 * ablation.fit_scenes
    alone = 3 * (fitted + questions // QUESTIONS_A_SCENE + 2 * language_pairs)
    # Images of one split. What questions share is computed once an image and setting, their own tokens once a question.
    corrected = len(AXES) * amplification.questions / QUESTIONS_A_SCENE
    image = ANSWER + QUESTIONS_A_SCENE * LANGUAGE.flops(QUESTION_TOKENS)
    main = len(amplification.projection_alphas) + len(amplification.oracle_alphas)
    # Complement and shuffled labels beside the random ones; one more alpha is the chosen one, the only one of the oracle's controls.
    controls = (amplification.random_draws + 2) * (len(amplification.control_alphas) + 1) + amplification.random_draws
    swept = len(amplification.sites) * (2 * main + controls)
    carried = 2 * (1 + amplification.random_draws)
    return {
        "behaviour": answered * (ENCODE + QUESTIONS_A_SCENE * ANSWER),
        "activations": every * (ENCODE + ANSWER),
        "interchange": vision_patches * (ENCODE / 2 + ANSWER) + language_patches * ANSWER / 2,
        "conflict": conflict_pairs * (ENCODE + (2 + len(ConflictSettings().token_sets)) * ANSWER),
        "ablation": conditions * (language_patches * ANSWER / 2 + (2 * questions + fitted) * ANSWER) + alone * ENCODE,
        "amplification": corrected * (2 * ENCODE + swept * image),
        "transfer, a pair of datasets": corrected * (ENCODE + carried * image),
    }


def store_gb() -> float:
    """``activations.zarr`` with the settings' defaults: a value a kept token and feature, 16 bits each at most."""
    scenes = scenes_of(Splits()) + scenes_of(Variants().decorrelated)
    settings = ActivationsSettings()
    assert settings.tokens != "all"
    # Main and decorrelated test scenes of each axis, and two blank ones.
    whole = len(AXES) * (2 * settings.whole_scenes + 1)
    features = VISION.depth * VISION.width + LANGUAGE.depth * LANGUAGE.width
    kept = scenes * settings.tokens + whole * VISUAL_TOKENS
    return (kept * features + scenes * VISUAL_TOKENS * LANGUAGE.width) * BYTES / 1e9


def main() -> None:
    weights = PARAMETERS * BYTES / 1e9
    limit = InterchangeSettings().memory_gb * 2**30 / 1e9
    print(f"weights {weights:.1f} GB, a batch up to {limit:.1f} GB, other {CONTEXT_GB:.0f} GB; store {store_gb():.0f} GB")
    print("| stage | PFLOP | GPU memory | minutes on a GPU | disk |\n|---|---|---|---|---|")
    for stage, work in flops().items():
        minutes = work / FLOPS_PER_S / 60
        disk = "under 0.1 GB"
        if stage == "activations":
            minutes += store_gb() * 1e9 / STORE_BYTES_PER_S / 60
            disk = f"{store_gb():.0f} GB"
        print(f"| {stage} | {work / 1e15:.0f} | {weights + limit + CONTEXT_GB:.0f} GB | {minutes:.0f} | {disk} |")


if __name__ == "__main__":
    main()
