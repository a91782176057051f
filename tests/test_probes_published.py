"""The published recipe of a probe: held against torch's own optimiser, and what it finds beside ours."""

import numpy as np
import polars as pl
import pytest
import torch

from probe_worlds import GRID, MemoryStore, object_code, world
from vlm_spatial.config.probes import ProbesSettings
from vlm_spatial.probes.analysis import analyse
from vlm_spatial.probes.fitting import one_hot
from vlm_spatial.probes.published import DECAY, RATE, STEPS, fit_published

pytestmark = pytest.mark.unit


def test_it_is_torchs_adamw_on_the_mean_cross_entropy() -> None:
    generator = np.random.default_rng(0)
    x = (3 + 2 * generator.standard_normal((60, 7))).astype(np.float32)
    labels = generator.integers(0, 3, 60)
    weight, bias = generator.standard_normal((3, 7)), generator.standard_normal(3)
    found = fit_published(x, one_hot(labels, 3), generator, (weight, bias))

    parameters = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (weight, bias)]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        optimiser.zero_grad()
        scores = torch.from_numpy(x).double() @ parameters[0].T + parameters[1]
        torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels)).backward()
        optimiser.step()
    np.testing.assert_allclose(found.weight, parameters[0].detach(), atol=2e-4)
    np.testing.assert_allclose(found.bias, parameters[1].detach(), atol=2e-4)
    assert abs(found.weight - weight).max() > 0.05
    scores = torch.from_numpy(x).double() @ parameters[0].T + parameters[1]
    np.testing.assert_allclose(found.decision_function(x), scores.detach(), atol=5e-3)


def test_its_start_has_variance_one_over_features() -> None:
    features = 4000
    found = fit_published(np.zeros((3, features), dtype=np.float32), np.eye(3), np.random.default_rng(1))
    # Without a signal the steps change nothing but the decay.
    assert found.weight.std() * np.sqrt(features) == pytest.approx((1 - RATE * DECAY) ** STEPS, rel=0.02)


@pytest.mark.slow
def test_it_stands_beside_ours_at_its_sites_only() -> None:
    store = MemoryStore(world(), {"connector": object_code, "language.0": object_code})
    found = analyse(store, store.world, ProbesSettings(strip_map_scenes=2, published_sites=("connector",)), seed=0)
    rows = found.table.filter(kind="published")
    assert set(rows["site"]) == {"connector"}
    assert set(rows["trained_on"]) == {"main"}
    main = rows.filter(token_set="object", scored_on="main")
    # With few features 200 steps of this size do not reach ours: weights move by at most 0.2.
    ours = found.table.filter(kind="logistic", site="connector", trained_on="main", scored_on="main", token_set="object")
    assert 0.45 < main["accuracy"].item() < ours["accuracy"].item()
    maps = found.strip_map.filter(kind="published")
    assert maps.height == 2 * GRID.size
    assert (maps["probability"].list.sum() - 1).abs().max() < 1e-5
    assert set(found.strip_map.filter(site="language.0")["kind"]) == {"logistic"}
    plain = analyse(store, store.world, ProbesSettings(strip_map_scenes=2), seed=0)
    assert plain.table.equals(found.table.filter(pl.col("kind") != "published"))


def test_it_needs_no_validation_split() -> None:
    store = MemoryStore(world(main=(40, 0, 30)), {"connector": object_code})
    found = analyse(store, store.world, ProbesSettings(published_sites=("connector",)), seed=0)
    main = found.table.filter(trained_on="main", scored_on="main", token_set="object")
    assert main.filter(kind="published")["accuracy"].item() > 0.45
    assert main.filter(kind="logistic")["accuracy"].null_count() == 1
    assert "horizontal/connector" in found.inconclusive["main"]
