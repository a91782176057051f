"""The same patches with other libraries, one full forward pass a patch, as their users write it.

Patches that copy a source's values as they are (no transform); pairs without edits of their own.
"""

import copy
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from benchmarks.measure import Unsupported, version
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.interventions.patch import PairRuns, Patch
from vlm_spatial.interventions.reference import patch_edit
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.values import Edit, Site, SiteValues


def plain_sweep(adapter: Adapter, pairs: Sequence[PairRuns], patches: Sequence[Patch]) -> Float[Tensor, "patches vocabulary"]:
    """Forward hooks; each source is run once."""
    sources: dict[tuple[int, str], dict[Site, SiteValues]] = {}
    sites = sorted({patch.site for patch in patches})
    rows = []
    for patch in patches:
        pair, key = pairs[patch.pair], (patch.pair, patch.source)
        if key not in sources:
            run = pair.sources[patch.source]
            sources[key] = adapter.run(adapter.prepare([run.image], [run.prompt]), capture=sites)[1]
        clean = adapter.prepare([pair.clean.image], [pair.clean.prompt])
        rows.append(adapter.run(clean, edits={patch.site: patch_edit(patch, sources[key][patch.site])})[0])
    return torch.cat(rows)


def batched_sweep(
    adapter: Adapter, pairs: Sequence[PairRuns], patches: Sequence[Patch], size: int = 32
) -> Float[Tensor, "patches vocabulary"]:
    """Forward hooks with many patches of a pair in one batch, whatever their site and cells: what a skilled user writes.

    Args:
        size: patches in one batch.
    """
    rows = torch.empty(len(patches), adapter.vocabulary)
    sites = sorted({patch.site for patch in patches})
    for number, pair in enumerate(pairs):
        own = [index for index, patch in enumerate(patches) if patch.pair == number]
        sources = {
            name: adapter.run(adapter.prepare([run.image], [run.prompt]), capture=sites)[1]
            for name, run in pair.sources.items()
            if any(patches[index].source == name for index in own)
        }
        for start in range(0, len(own), size):
            part = own[start : start + size]
            clean = adapter.prepare([pair.clean.image] * len(part), [pair.clean.prompt] * len(part))
            edits = {
                site: _edit_of_rows(
                    {
                        row: patch_edit(patches[index], sources[patches[index].source][site])
                        for row, index in enumerate(part)
                        if patches[index].site == site
                    }
                )
                for site in {patches[index].site for index in part}
            }
            rows[part] = adapter.run(clean, edits=edits)[0].cpu()
    return rows


def _edit_of_rows(of_rows: dict[int, Edit]) -> Edit:
    def edit(values: SiteValues) -> SiteValues:
        edited = values.clone()
        for row, of_row in of_rows.items():
            edited[row : row + 1] = of_row(values[row : row + 1])
        return edited

    return edit


@torch.inference_mode()
def nnsight_sweep(adapter: Adapter, pairs: Sequence[PairRuns], patches: Sequence[Patch]) -> Float[Tensor, "patches vocabulary"]:
    """nnsight: one trace a source, which saves every site, and one trace a patch."""
    from nnsight import NNsight

    traced = NNsight(adapter.model)
    sites = sorted({patch.site for patch in patches}, key=adapter.sites.index)
    places = {site: _envoy(traced, adapter, site) for site in sites}
    sources: dict[tuple[int, str], dict[Site, SiteValues]] = {}
    rows = []
    for patch in patches:
        pair, key = pairs[patch.pair], (patch.pair, patch.source)
        if key not in sources:
            source = adapter.prepare([pair.sources[patch.source].image], [pair.clean.prompt])
            saved: dict[Site, Any] = {}
            with traced.trace(**source.inputs, use_cache=False, logits_to_keep=1):
                for site in sites:
                    saved[site] = places[site].output.clone().save()
            sources[key] = {site: adapter.read(site, saved[site], source) for site in sites}
        clean = adapter.prepare([pair.clean.image], [pair.clean.prompt])
        edit, place, site = patch_edit(patch, sources[key][patch.site]), places[patch.site], patch.site
        with traced.trace(**clean.inputs, use_cache=False, logits_to_keep=1):
            place.output[:] = adapter.write(site, place.output, edit(adapter.read(site, place.output, clean)), clean)
            logits = traced.output.logits[:, -1].save()
        rows.append(logits.float())
    return torch.cat(rows)


@torch.inference_mode()
def pyvene_sweep(adapter: Adapter, pairs: Sequence[PairRuns], patches: Sequence[Patch]) -> Float[Tensor, "patches vocabulary"]:
    """pyvene: language sites only (it takes positions of a sequence); source and patched run in one call."""
    import pyvene

    rows = []
    for patch in patches:
        pair = pairs[patch.pair]
        clean = adapter.prepare([pair.clean.image], [pair.clean.prompt])
        source = adapter.prepare([pair.sources[patch.source].image], [pair.clean.prompt])
        cells = [patch.to_cells if patch.from_cells is None else patch.from_cells, patch.to_cells]
        taken, written = (clean.visual_positions[0, torch.as_tensor(part)].tolist() for part in cells)
        part, layer = patch.site.split(".")
        if part != "language":
            raise ValueError(f"site {patch.site}: this comparison covers language sites only")
        intervened = pyvene.IntervenableModel(
            pyvene.IntervenableConfig(
                [
                    pyvene.RepresentationConfig(
                        component=f"{adapter.language_path}.layers[{layer}].output",
                        unit="pos",
                        max_number_of_units=len(written),
                        intervention=pyvene.VanillaIntervention(embed_dim=adapter.site_shape(patch.site)[1], keep_last_dim=True),
                    )
                ]
            ),
            model=adapter.model,
        )
        options = {"use_cache": False, "logits_to_keep": 1}
        _, output = intervened(clean.inputs | options, [source.inputs | options], {"sources->base": ([[taken]], [[written]])})
        rows.append(output.logits[:, -1].float())
    return torch.cat(rows)


class TransformerLens:
    """TransformerLens. A bridge needs a model of its own: it takes the given one apart, and computes attention
    with plain products ("eager"), which is its documented way.

    Raises:
        Unsupported: if it is not installed or does not know the architecture, in its own words.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        try:
            from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
            from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
        except ImportError as error:
            raise Unsupported(f"cannot be imported: {error}") from error
        if adapter.architecture not in SUPPORTED_ARCHITECTURES:
            raise Unsupported(f"Unsupported architecture: {adapter.architecture}")
        model = copy.deepcopy(adapter.model)
        # Of Qwen it asks for torchvision, which only image processors use; images are prepared here.
        with mock.patch.object(SUPPORTED_ARCHITECTURES[adapter.architecture], "required_libraries", []):
            try:
                self.bridge = build_bridge_from_module(model, adapter.architecture, hf_config=model.config, model_name=adapter.family)
            except AttributeError as error:
                raise Unsupported(f"{type(error).__name__}: {error}") from error

    @torch.inference_mode()
    def sweep(self, pairs: Sequence[PairRuns], patches: Sequence[Patch]) -> Float[Tensor, "patches vocabulary"]:
        """One run a source with every site's hook, one run a patch."""
        sites = sorted({patch.site for patch in patches}, key=self.adapter.sites.index)
        sources: dict[tuple[int, str], dict[Site, SiteValues]] = {}
        rows = []
        for patch in patches:
            pair, key = pairs[patch.pair], (patch.pair, patch.source)
            if key not in sources:
                source = self.adapter.prepare([pair.sources[patch.source].image], [pair.clean.prompt])
                sources[key] = self.capture(source, sites)
            clean = self.adapter.prepare([pair.clean.image], [pair.clean.prompt])
            edit, site = patch_edit(patch, sources[key][patch.site]), patch.site

            def write(output: Tensor, hook: Any, edit: Any = edit, site: Site = site, clean: Any = clean) -> Tensor:  # noqa: ARG001
                return self.adapter.write(site, output, edit(self.adapter.read(site, output, clean)), clean)

            logits = self.bridge.run_with_hooks(return_type="logits", fwd_hooks=[(self.hook_name(site), write)], **self._inputs(clean))
            rows.append(logits[:, -1].float())
        return torch.cat(rows)

    @torch.inference_mode()
    def capture(self, prepared: Any, sites: Sequence[Site]) -> dict[Site, SiteValues]:
        """Values of sites in one run."""
        _, cache = self.bridge.run_with_cache(
            return_type="logits", names_filter=[self.hook_name(site) for site in sites], **self._inputs(prepared)
        )
        return {site: self.adapter.read(site, cache[self.hook_name(site)], prepared) for site in sites}

    def hook_name(self, site: Site) -> str:
        """The hook of a site.

        Raises:
            Unsupported: if the bridge has none there.
        """
        part, _, layer = site.partition(".")
        places = {"connector": ["vision_projector"], "language": [f"blocks.{layer}"]}
        places["vision"] = [f"vision_encoder.encoder_layers.{layer}", f"vision_encoder.blocks.{layer}"]
        for place in places[part]:
            if f"{place}.hook_out" in self.bridge.hook_dict:
                return f"{place}.hook_out"
        raise Unsupported(f"no hook at {site}")

    @staticmethod
    def _inputs(prepared: Any) -> dict[str, Any]:
        return {("input" if name == "input_ids" else name): value for name, value in prepared.inputs.items()}


class Traced:
    """nnsight, wrapped around the model once."""

    def __init__(self, adapter: Adapter) -> None:
        from nnsight import NNsight

        self.adapter = adapter
        self.traced = NNsight(adapter.model)

    @torch.inference_mode()
    def capture(self, prepared: Any, sites: Sequence[Site]) -> dict[Site, SiteValues]:
        """Values of sites in one trace."""
        places = {site: _envoy(self.traced, self.adapter, site) for site in sites}
        saved: dict[Site, Any] = {}
        with self.traced.trace(**prepared.inputs, use_cache=False, logits_to_keep=1):
            for site in sites:
                saved[site] = places[site].output.clone().save()
        return {site: self.adapter.read(site, saved[site], prepared) for site in sites}

    @torch.inference_mode()
    def edited(self, prepared: Any, site: Site, edit: Any) -> Float[Tensor, "batch vocabulary"]:
        """Last-position logits of a run whose values at ``site`` go through ``edit``, in one trace."""
        adapter, place, traced = self.adapter, _envoy(self.traced, self.adapter, site), self.traced
        with traced.trace(**prepared.inputs, use_cache=False, logits_to_keep=1):
            place.output[:] = adapter.write(site, place.output, edit(adapter.read(site, place.output, prepared)), prepared)
            logits = traced.output.logits[:, -1].save()
        return logits.float()


def missing(package: str) -> str | None:
    """Why a package is not there; None if it is."""
    return None if version(package) else "not installed in this environment (see benchmarks/requirements.txt)"


def _envoy(traced: Any, adapter: Adapter, site: Site) -> Any:
    """nnsight's counterpart of a site's module."""
    wanted = adapter.module(site)
    name = next(name for name, module in adapter.model.named_modules() if module is wanted)
    place = traced
    for part in name.split("."):
        place = place[int(part)] if part.isdigit() else getattr(place, part)
    return place
