# SPDX-License-Identifier: Apache-2.0
# The plugin in NVIDIA's NeMo container, for a user without privileges.
#
#   docker build --tag nemo_mcpo .
#   docker run --rm --gpus all nemo_mcpo                    # what this machine has: scripts/doctor.py
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" --volume "$PWD/results:/results" \
#       --env NEMO_MCPO_CACHE=/results/cache nemo_mcpo \
#       python examples/train_gpt_mcpo.py … exp_manager.explicit_log_dir=/results/run
#
# In a Slurm job the repository is mounted and stands first on PYTHONPATH (slurm/common.sh).
ARG BASE_IMAGE=nvcr.io/nvidia/nemo:26.02
FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="nemo_mcpo" \
      org.opencontainers.image.description="MC-PO: preference optimization with hard negatives, on NeMo" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

USER 0
WORKDIR /opt/nemo_mcpo
COPY . .
# `pip` alone may belong to the system's Python, beside the environment that `python` starts. The package is imported
# from where it is installed: a second copy here would hide that one from whoever stands in this directory.
RUN python -m pip install --no-cache-dir --no-deps --no-build-isolation . \
    && python scripts/complete_container.py \
    && rm -r build nemo_mcpo nemo_mcpo.egg-info \
    && chmod -R go+rX .

# Its home and /results may be written by any user, since on most machines the mounted files decide who runs. USER has
# to be set: a number without a name breaks what asks for the name.
ARG USER_ID=10001
RUN groupadd --gid "${USER_ID}" mcpo \
    && useradd --no-log-init --uid "${USER_ID}" --gid mcpo --create-home --shell /bin/bash mcpo \
    && mkdir /results \
    && chmod 1777 /home/mcpo /results
USER ${USER_ID}:${USER_ID}
ENV HOME=/home/mcpo USER=mcpo

# Ends with 1 when anything that a run needs is missing; a GPU is not expected here. What imports leave behind would
# belong to this user alone.
RUN mkdir /tmp/doctor \
    && HOME=/tmp/doctor TMPDIR=/tmp/doctor python scripts/doctor.py \
    && rm -r /tmp/doctor
CMD ["python", "scripts/doctor.py"]
