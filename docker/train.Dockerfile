# train: train, embed and export; the pipeline's components that need torch
#   docker build -f docker/train.Dockerfile --build-arg HILUM_CODE_REVISION=$(git rev-parse --short=12 HEAD) \
#     -t hilum-python-train:0.1.0 .
# The classic builder is enough; BuildKit is not needed.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# extra-ca.crt is for networks that inspect TLS; it stays in this stage.
COPY requirements.lock extra-ca.crt* /b/
RUN python3 -m venv /opt/venv
COPY pyproject.toml README.md /b/hilum/
COPY src /b/hilum/src
COPY components /b/hilum/components
COPY pipelines /b/hilum/pipelines
COPY serving /b/hilum/serving
# The lock is a constraint: this image gets what its extra needs, in the locked versions, and nothing else.
RUN set -eu; if [ -s /b/extra-ca.crt ]; then export PIP_CERT=/b/extra-ca.crt; fi; \
    /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint /b/requirements.lock \
      "/b/hilum[train,pipeline]" torch-model-archiver; \
    find /opt/venv -name __pycache__ -prune -exec rm -rf {} +

FROM ${BASE}
ARG HILUM_CODE_REVISION=unknown
RUN useradd --system --uid 10001 --home-dir /tmp --shell /usr/sbin/nologin hilum
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib \
    ORT_DISABLE_TELEMETRY=1 GX_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 DVC_NO_ANALYTICS=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HILUM_CODE_REVISION=${HILUM_CODE_REVISION}
USER 10001
WORKDIR /tmp
CMD ["hilum", "--help"]
