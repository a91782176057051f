# The workflow with every package of requirements.lock, at exactly those versions.
#   docker build --tag vlm-spatial .
#   docker run --rm --gpus all --volume "$PWD:/work" vlm-spatial      (in a folder with a workflow_config.yaml)
# For `snakemake --sdm apptainer`: apptainer build vlm-spatial.sif docker-daemon:vlm-spatial:latest (docs/cluster.md).
FROM python:3.11.13-slim-bookworm

ENV PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /opt/vlm-spatial
# Packages first: their layer is kept until the lock changes.
COPY requirements.lock ./
RUN python -m pip install --requirement requirements.lock

COPY pyproject.toml README.md LICENSE Snakefile workflow_config.yaml ./
COPY src src
COPY organisms organisms
COPY rules rules
COPY envs envs
COPY presets presets
COPY profiles profiles
RUN python -m pip install --no-deps --editable .

# What a run writes beside its results; any user may run the image.
ENV XDG_CACHE_HOME=/tmp/cache
WORKDIR /work
CMD ["snakemake", "--snakefile", "/opt/vlm-spatial/Snakefile", "--cores", "8", "--resources", "gpu=1"]
