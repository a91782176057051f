# Where does a vision-language model compute which object is where? One rule file a stage, in rules/.
# Plain `snakemake` takes profiles/default; on a cluster: `snakemake --workflow-profile profiles/slurm`.
import os
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.20")


report: "rules/captions/workflow.rst"


# Where this file lies, also if another workflow uses it as a module.
HERE = Path((lambda: None).__code__.co_filename).parent
SOURCE = str(HERE / "src")
sys.path.insert(0, SOURCE)
# The profile has imported the installed package, which may be another release.
installed = sys.modules.get("vlm_spatial")
if installed and not Path(installed.__file__).samefile(
    Path(SOURCE, "vlm_spatial/__init__.py")
):
    for name in [name for name in sys.modules if name.split(".")[0] == "vlm_spatial"]:
        del sys.modules[name]


from vlm_spatial.config.yaml_files import Source, read_yaml
from vlm_spatial.errors import UserError
from vlm_spatial.workflow.snakemake_internals import config_files

# The whole configuration is one of three: what a workflow gives that uses this one as a module, the files of --configfile, or the default.
given = []
if config and not HERE.samefile(workflow.basedir):
    CONFIG_FILES = Source("config of the module")
else:
    given = config_files(workflow)
    CONFIG_FILES = Source(*given or ["workflow_config.yaml"])
    # Snakemake reads them with less care: it takes the last of two equal keys.
    try:
        for path in CONFIG_FILES.paths:
            read_yaml(path)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    if not given:

        configfile: "workflow_config.yaml"


# For `--sdm apptainer`; what makes it is the Dockerfile.
container: os.environ.get("VLM_SPATIAL_IMAGE", "vlm-spatial.sif")


include: "rules/common.smk"
include: "rules/bases.smk"
include: "rules/boxes.smk"
include: "rules/scenes.smk"
include: "rules/organism.smk"
include: "rules/behaviour.smk"
include: "rules/activations.smk"
include: "rules/probes.smk"
include: "rules/generalisation.smk"
include: "rules/interchange.smk"
include: "rules/conflict.smk"
include: "rules/readout.smk"
include: "rules/routes.smk"
include: "rules/positions.smk"
include: "rules/ablation.smk"
include: "rules/amplification.smk"
include: "rules/transfer.smk"
include: "rules/measures.smk"
include: "rules/figures.smk"


rule all:
    default_target: True
    input:
        # Boxes and organisms are made where something needs them.
        [
            str(path)
            for stage in (
                "scenes",
                *of_scope("model and dataset", "model", "all", optional=True),
            )
            for path, _ in plan.results_of(stage)
        ],
