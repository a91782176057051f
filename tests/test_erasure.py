"""Erasure on made-up activations in which it is known what tells the slot and what tells the content."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from vlm_spatial.errors import UserError
from vlm_spatial.interventions.erasure import Erasure, fit_erasure
from vlm_spatial.tokens import SceneTokens, TokenGrid, scene_tokens

pytestmark = pytest.mark.model

GRID = TokenGrid(6, 6)
FEATURES = 24


def made_up(count: int, seed: int) -> tuple[list[np.ndarray], list[SceneTokens], list[np.ndarray]]:
    """Scenes whose object tokens and background tokens tell their slot along DIFFERENT directions, and objects their content too."""
    directions = np.random.default_rng(0).normal(size=(12, FEATURES))
    generator = np.random.default_rng(seed)
    values, tokens, contents = [], [], []
    for _ in range(count):
        left = generator.integers(0, 10, size=3) + np.array([2, 34, 66])
        boxes = [(float(x), 30.0, float(x) + 22, 60.0) for x in left]
        scene = scene_tokens(boxes, GRID, 100, 100, "horizontal")
        content = generator.permutation(3)
        x = generator.normal(scale=0.5, size=(GRID.size, FEATURES))
        for slot in range(3):
            background = scene.strips[slot] & ~scene.objects.any(axis=0)
            x[scene.objects[slot]] += 2 * directions[slot] + 2 * directions[6 + content[slot]] + directions[9]
            x[background] += 2 * directions[3 + slot]
        values.append(x.astype(np.float32))
        tokens.append(scene)
        contents.append(content)
    return values, tokens, contents


def readable(values: list[np.ndarray], tokens: list[SceneTokens], kind: str, labels: list[np.ndarray] | None = None) -> float:
    """Accuracy of a freshly fitted linear classifier of the slot (or of ``labels`` by slot), on the second half of the scenes."""
    x, y, scene = [], [], []
    for number, (value, token) in enumerate(zip(values, tokens, strict=True)):
        for slot in range(3):
            mask = token.objects[slot] if kind == "object" else token.strips[slot] & ~token.objects.any(axis=0)
            x.append(value[mask])
            y += [slot if labels is None else labels[number][slot]] * int(mask.sum())
            scene += [number] * int(mask.sum())
    half = np.array(scene) < len(values) // 2
    stacked, target = np.concatenate(x), np.array(y)
    return float(LogisticRegression(max_iter=2000).fit(stacked[half], target[half]).score(stacked[~half], target[~half]))


def erased(erasure: Erasure, values: list[np.ndarray]) -> list[np.ndarray]:
    return [erasure(torch.as_tensor(value)[None, :, None]).numpy()[0, :, 0] for value in values]


def test_the_slot_goes_from_objects_and_background_and_the_content_stays() -> None:
    values, tokens, contents = made_up(200, seed=1)
    assert min(readable(values, tokens, "object"), readable(values, tokens, "background")) > 0.95
    after = erased(fit_erasure(values, tokens, background=True), values)
    assert readable(after, tokens, "object") < 0.45
    assert readable(after, tokens, "background") < 0.5
    assert readable(after, tokens, "object", contents) > 0.95


def test_no_linear_covariance_is_left_on_the_scenes_it_was_fitted_on() -> None:
    values, tokens, _ = made_up(80, seed=2)
    after = erased(fit_erasure(values, tokens, background=True), values)
    for kind in ("object", "background"):
        masks = [t.objects if kind == "object" else t.strips & ~t.objects.any(axis=0) for t in tokens]
        for slot in range(3):
            x = np.concatenate([value[mask.any(axis=0)] for value, mask in zip(after, masks, strict=True)]).astype(float)
            y = np.concatenate([mask[slot][mask.any(axis=0)] for mask in masks]).astype(float)
            assert np.abs((x - x.mean(0)).T @ (y - y.mean()) / len(y)).max() < 1e-4


def test_objects_still_differ_from_background() -> None:
    values, tokens, _ = made_up(80, seed=3)
    after = erased(fit_erasure(values, tokens, background=True), values)
    x = np.concatenate(after)
    y = np.concatenate([token.objects.any(axis=0) for token in tokens])
    assert LogisticRegression(max_iter=2000).fit(x[::2], y[::2]).score(x[1::2], y[1::2]) > 0.95


def test_erasure_of_object_tokens_only_leaves_the_background_as_it_is() -> None:
    values, tokens, _ = made_up(80, seed=4)
    erasure = fit_erasure(values, tokens, background=False)
    objects = tokens[0].objects.any(axis=0)
    before = torch.as_tensor(values[0])[None, :, None]
    after = erasure.at(objects)(before)
    assert torch.equal(after[:, ~objects], before[:, ~objects])
    assert not torch.equal(after[:, objects], before[:, objects])
    changed = [value.copy() for value in values]
    for value, token in zip(changed, tokens, strict=True):
        mask = token.objects.any(axis=0)
        value[mask] = erasure(torch.as_tensor(value[mask])[None, :, None]).numpy()[0, :, 0]
    assert readable(changed, tokens, "object") < 0.45


def test_nothing_to_fit_on() -> None:
    with pytest.raises(UserError, match=r"scenes\.train"):
        fit_erasure([], [], background=True)
