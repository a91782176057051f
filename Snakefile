# Where does a vision-language model compute which object is where? One rule file a stage, in rules/.
# Plain `snakemake` takes profiles/default; on a cluster: `snakemake --workflow-profile profiles/slurm`.
import os
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.20")


report: "rules/captions/workflow.rst"


SOURCE = str(Path(workflow.basedir, "src"))
sys.path.insert(0, SOURCE)


from vlm_spatial.config.yaml_files import Source, read_yaml
from vlm_spatial.errors import UserError

# A file given with --configfile is the whole configuration, not an addition to the default one.
CONFIG_FILES = Source(*workflow.overwrite_configfiles or ["workflow_config.yaml"])
# Snakemake reads them with less care: it takes the last of two equal keys.
try:
    for path in CONFIG_FILES.paths:
        read_yaml(path)
except UserError as error:
    raise SystemExit(f"error: {error}") from None
if not workflow.overwrite_configfiles:

    configfile: "workflow_config.yaml"


# For `--sdm apptainer`; what makes it is the Dockerfile.
container: os.environ.get("VLM_SPATIAL_IMAGE", "vlm-spatial.sif")


include: "rules/common.smk"
include: "rules/boxes.smk"
include: "rules/scenes.smk"
include: "rules/organism.smk"
include: "rules/behaviour.smk"
include: "rules/activations.smk"
include: "rules/probes.smk"
include: "rules/generalisation.smk"
include: "rules/interchange.smk"
include: "rules/conflict.smk"
include: "rules/ablation.smk"
include: "rules/amplification.smk"
include: "rules/transfer.smk"
include: "rules/measures.smk"
include: "rules/figures.smk"


rule all:
    default_target: True
    input:
        rules.figures.output,
        scenes=expand(rules.scenes.output, dataset=plan.config.datasets),
        results=[
            of_every_model(output)
            for stage in MODEL_STAGES
            for output in getattr(rules, stage).output
        ],
        across=[
            across_datasets(output)
            for stage in ACROSS_STAGES
            for output in getattr(rules, stage).output
        ],
