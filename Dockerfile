# segdistill in a container: docker build -t segdistill .     docs/how-to/use-docker.md explains it. Not built yet by anybody.
# Any image with pip and Python 3.11 or newer, for example one with CUDA (untested).
ARG BASE=python:3.11-slim
FROM ${BASE}

# This index has torch without CUDA, which saves gigabytes. Left empty, torch comes from PyPI, with CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Extras of pyproject.toml, with commas.
ARG EXTRAS=deploy,geo

WORKDIR /opt/segdistill
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python3 -m pip install --no-cache-dir --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[${EXTRAS}]"

# Not root. Libraries keep caches in HOME, which any user that docker run --user names can write to.
RUN useradd segdistill && install --directory --owner segdistill /workspace
ENV HOME=/tmp
USER segdistill
WORKDIR /workspace
ENTRYPOINT ["segdistill"]
