"""What'sUp by the published recipe: which halves are joined, cell by cell which tokens are exchanged, and names of one token."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from pydantic import ValidationError
from tokenizers import Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from photo_set import THINGS, write_subset_a
from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.config.workflow import Config
from vlm_spatial.config.yaml_files import Source
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.photo_halves import Joined, draw_halves
from vlm_spatial.scenes.sources.halves import HALVES
from vlm_spatial.scenes.sources.registry import dataset_files, source_of
from vlm_spatial.scenes.sources.source import PlannedDataset
from vlm_spatial.scenes.tables import questions_table
from vlm_spatial.tokens import TokenGrid, matched_blocks, scene_tokens
from vlm_spatial.workflow.preflight import check_outside

pytestmark = pytest.mark.unit

OBJECTS = list(THINGS)[:6]
# As published, inclusive: rows; columns of the left and the right object; columns of the left and the right strip.
EXCHANGED: dict[str, dict[str, tuple[tuple[int, int], ...]]] = {
    "qwen2-vl": {
        "chair": ((8, 10), (1, 3), (8, 10), (0, 3), (8, 11)),
        "table": ((6, 10), (0, 2), (9, 11), (0, 2), (9, 11)),
        "armchair": ((9, 10), (1, 3), (8, 10), (0, 3), (8, 11)),
    },
    "gemma-3": {
        "chair": ((12, 14), (3, 5), (10, 12), (0, 5), (10, 15)),
        "table": ((10, 14), (2, 3), (12, 13), (0, 5), (12, 15)),
        "armchair": ((13, 14), (2, 4), (11, 13), (0, 4), (11, 15)),
    },
}
PAPER: dict[str, Any] = {
    "kind": "whatsup",
    "subset": "A",
    "halves": "qwen2-vl",
    "scenes": {"train": 26, "validation": 14, "test": 20},
    "templates": ["relation_to_object"],
    "asked_slots": [0, 2],
    "wording": {"relation_to_object": "The object on the floor {relation} the {reference} is a(n) {blank}"},
    "pairs": {"vision": 6, "language": 0, "conflict": 2, "last_token": 6},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whatsup")
    write_subset_a(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Knows every name in both cases but those of the bowl with a capital, of the can and of the table, which are cut into letters."""
    known = ["[UNK]", *["mug", "Mug", "plate", "Plate", "bowl", "book", "Book", "phone", "Phone", "chair", "Chair"]]
    made = Tokenizer(WordLevel({word: number for number, word in enumerate(known)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Sequence([normalizers.Replace(word, " ".join(word)) for word in ("Bowl", "can", "Can", "table", "Table")])
    made.pre_tokenizer = Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    return folder


def planned(root: Path, **settings: Any) -> PlannedDataset:
    made = dataset_settings({**PAPER, "root": str(root), **settings})
    return source_of("whatsup").plan(made, 0)


def cells(rows: tuple[int, int], columns: tuple[int, int], grid: int) -> list[int]:
    return [row * grid + column for row in range(rows[0], rows[1] + 1) for column in range(columns[0], columns[1] + 1)]


@pytest.mark.parametrize("model", EXCHANGED)
def test_exchanged_tokens_are_the_published_ones(model: Any) -> None:
    halves = HALVES[model]
    for reference, (rows, left, right, first, last) in EXCHANGED[model].items():
        blocks = halves.blocks(reference)
        assert blocks is not None
        side, grid = halves.canvas, TokenGrid(halves.grid, halves.grid)
        tokens = scene_tokens(blocks, grid, side, side, "horizontal", bands=halves.bands(reference))
        for slot, columns, strip in ((0, left, first), (2, right, last)):
            assert np.flatnonzero(tokens.objects[slot]).tolist() == cells(rows, columns, halves.grid)
            assert np.flatnonzero(tokens.strips[slot]).tolist() == cells((0, halves.grid - 1), strip, halves.grid)
        ours, theirs = matched_blocks(tokens, 0, 2, "object")
        assert len(ours) == len(theirs) == len(cells(rows, left, halves.grid))


def test_labels_are_the_published_boxes() -> None:
    # 48 to 60 of 64 are rows 9 to 10 of 12; 12 to 24 are columns 2.25 to 4.5, so 2 and 3 (half a cell is rounded to an even one).
    assert HALVES["qwen2-vl"].labelled("chair") == ((56.0, 252.0, 112.0, 308.0), (112.0, 84.0, 224.0, 308.0), (196.0, 252.0, 280.0, 308.0))
    # Of 32 cells every bound is whole.
    assert HALVES["pixtral"].labelled("armchair") == (
        (64.0, 416.0, 160.0, 480.0),
        (160.0, 192.0, 352.0, 480.0),
        (352.0, 416.0, 448.0, 480.0),
    )
    assert HALVES["pixtral"].blocks("chair") is None
    assert {model: halves.canvas for model, halves in HALVES.items()} == {"qwen2-vl": 336, "gemma-3": 896, "pixtral": 512}


@pytest.mark.slow
def test_every_picture_is_made_of_the_right_halves(root: Path) -> None:
    dataset = planned(root)
    main = [item for item in dataset.scenes if item.scene.variant == "main"]
    # Ordered pairs of six objects, of two references.
    assert len(main) == len({item.scene.objects for item in main}) == 2 * 6 * 5
    assert {split: sum(item.split == split for item in main) for split in ("train", "validation", "test")} == {
        "train": 26,
        "validation": 14,
        "test": 20,
    }
    for item in main[:3]:
        left, reference, right = item.scene.objects
        image = np.asarray(dataset.draw(dataset.drawings[item.scene_id]))
        for object_, relation, columns in ((left, "left_of", slice(0, 168)), (right, "right_of", slice(168, 336))):
            photo = Image.open(root / f"data/controlled_images/{object_}_{relation}_{reference}.jpeg").convert("RGB")
            squeezed = np.asarray(photo.resize((336, 336), Image.Resampling.BILINEAR))
            np.testing.assert_array_equal(image[:, columns], squeezed[:, columns])
    asked = questions_table(main, ("relation_to_object",), PAPER["wording"], (0, 2))
    assert asked.height == 2 * len(main)
    of_first = asked.filter(scene_id=main[0].scene_id, slot=2).row(0, named=True)
    assert of_first["prompt"] == f"The object on the floor to the right of the {main[0].scene.objects[1]} is a(n) "
    assert of_first["answer"] == main[0].scene.objects[2]


def test_an_orientation_tag_is_not_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert ImageOps.exif_transpose(Image.open(tmp_path / "turned.png")).size == (20, 40)
    drawn = draw_halves(Joined(tmp_path / "turned.png", tmp_path / "turned.png", 336))
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(image.resize((336, 336), Image.Resampling.BILINEAR)))


@pytest.mark.slow
def test_pairs_exchange_outer_objects_or_share_the_middle_one(root: Path) -> None:
    dataset = planned(root)
    scenes = {item.scene_id: item.scene for item in dataset.scenes}
    found = {name: [pair for pair in dataset.pairs if pair.experiment == name] for name in ("vision", "conflict", "last_token")}
    assert {name: len(pairs) for name, pairs in found.items()} == {"vision": 6, "conflict": 2, "last_token": 6}
    assert dataset.set_aside == []
    for pair in dataset.pairs:
        clean, other = scenes[pair.clean_scene], scenes[pair.counterfactual_scene]
        assert clean.boxes == other.boxes == HALVES["qwen2-vl"].blocks(clean.objects[1])
        if pair.experiment == "vision":
            assert clean.objects == other.objects[::-1]
        elif pair.experiment == "last_token":
            assert clean.objects[1] == other.objects[1]
            assert len({*clean.objects, *other.objects}) == 5
    assert [pair.slots for pair in found["vision"]] == [(0, 2), (2, 0)] * 3
    assert len({(pair.clean_scene, pair.slots) for pair in dataset.pairs}) == len(dataset.pairs)


def test_names_of_more_than_one_token_are_left_out_and_counted(
    root: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = planned(root, one_token_in=str(tokenizer))
    main = [item.scene for item in dataset.scenes if item.scene.variant == "main"]
    kept = {"mug", "plate", "book", "phone"}
    assert {word for scene in main for word in scene.objects[::2]} == kept
    # As published: the reference need not be one token where it is only asked about, and must where tokens are exchanged.
    assert {scene.objects[1] for scene in main} == {"chair", "table"}
    assert {item.scene.objects[1] for item in dataset.scenes if item.scene.variant == "pair"} == {"chair"}
    assert {item.reason.split(" is more")[0] for item in dataset.set_aside} == {"'bowl', or with a capital,", "'can', or with a capital,"}
    values = {**PAPER, "root": str(root), "one_token_in": str(tokenizer)}
    assert tokenizer / "tokenizer.json" in dataset_files(values)
    models = {"mine": {"checkpoint": "organization/model", "revision": 40 * "0", "datasets": ["photos"]}}
    config = {"results": str(tmp_path / "results"), "datasets": {"photos": values}, "models": models}
    check_outside(Config.model_validate(config), Source(tmp_path / "config.yaml"))
    assert (
        f"datasets.photos: 2 of 6 names are left out, as they are more than one token to {tokenizer}: bowl, can; 4 are left"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"halves": "llava"}, "halves"),
        ({"boxes": "boxes.json"}, "halves: their boxes are made by hand"),
        ({"halves": None}, "pairs.last_token: its pictures are drawn"),
    ],
)
def test_settings_that_do_not_fit_are_refused(root: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        dataset_settings({**PAPER, "root": str(root), **settings})


def test_a_folder_without_a_tokenizer_or_photos_without_boxes_are_one_line(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one_token_in: no file '.*tokenizer\.json'; give the folder of a checkpoint"):
        source_of("whatsup").check_paths(dataset_settings({**PAPER, "root": str(root), "one_token_in": str(tmp_path)}))
    # Of a sofa no boxes are published.
    data = tmp_path / "data/controlled_images"
    data.mkdir(parents=True)
    names = {relation: f"data/controlled_images/mug_{relation}_sofa.jpeg" for relation in ("left_of", "right_of")}
    for name in names.values():
        shutil.copy(next((root / "data/controlled_images").glob("*.jpeg")), tmp_path / name)
    captions = {"left_of": "A mug to the left of a sofa", "right_of": "A mug to the right of a sofa"}
    entries = [{"image_path": name, "caption_options": [captions[relation]]} for relation, name in names.items()]
    (tmp_path / "data/controlled_images_dataset.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(UserError, match=r"no two photos can be joined.*photos of sofa: no boxes are published"):
        planned(tmp_path)
