"""``vlm-spatial amplify``: a correction file that any program can apply to the stock model."""

from pathlib import Path
from typing import Annotated

import typer

from vlm_spatial.errors import UserError


def amplify(
    model: Annotated[str, typer.Option(help="checkpoint folder or hub id that the probes were trained on")],
    probe: Annotated[Path, typer.Option(help="its probes.safetensors")],
    alpha: Annotated[float, typer.Option(help="strength; 1 changes nothing, the report says which was best on validation")],
    output: Annotated[Path, typer.Option(help="the file to write")] = Path("correction.safetensors"),
    site: Annotated[str, typer.Option(help="where to correct: connector or vision.<layer>")] = "connector",
    revision: Annotated[str | None, typer.Option(help="commit of a hub id")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16: the model's type while it is looked at")] = "bfloat16",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "cpu",
    peft: Annotated[str | None, typer.Option(help="folder of the LoRA adapter that the probes' model had merged")] = None,
) -> None:
    """Write a correction file that strengthens a model's spatial signal.

    A small safetensors file. The correction is h + (alpha - 1) P (h - m) at every visual token, with P the subspace of the
    probes and m the mean object token. It needs no labels. The report says which site and alpha were best on the validation split.

    \b
    Examples:
      vlm-spatial amplify --model organisms/natural-gemma3 --probe results/gemma3-natural/squares/probes.safetensors --alpha 4
      vlm-spatial amplify --model /data/mine --probe results/mine/squares/probes.safetensors --alpha 2 --site vision.3
    """
    from vlm_spatial.probes.saved import load_probes

    if site.startswith("language."):
        raise UserError(f"--site {site}: a correction acts on visual tokens only; allowed are connector and vision.<layer>")
    probes = load_probes(probe)
    # What is wrong with the probes is said before a model is loaded.
    from vlm_spatial.amplification.corrections import probe_basis, probe_centre
    from vlm_spatial.amplification.deploy import Correction
    from vlm_spatial.models.load import load_adapter

    adapter = load_adapter(model, revision=revision, dtype=dtype, device=device, peft=peft)
    correction = Correction(
        basis=probe_basis(probes, site, adapter.identity.weights, adapter.site_shape(site)[1]),
        alpha=alpha,
        module=adapter.module_name(site),
        site=site,
        architecture=adapter.architecture,
        weights=adapter.identity.weights,
        centre=probe_centre(probes, site),
    )
    correction.save(output)
    print(f"{output}: {correction.describe()}")
    print("apply it to the stock model:")
    print("    from vlm_spatial.amplification.deploy import Correction")
    print(f'    with Correction.load("{output}").applied_to(model):')
    print("        model.generate(**inputs)")
