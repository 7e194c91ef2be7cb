# serve: TorchServe on mounted releases; no torch (docs/decisions/0007-images.md)
#   docker build -f docker/serve.Dockerfile --build-arg HILUM_CODE_REVISION=$(git rev-parse --short=12 HEAD) \
#     -t hilum-python-serve:0.1.0 .
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
      "/b/hilum[serve]"; \
    find /opt/venv -name __pycache__ -prune -exec rm -rf {} +

FROM ${BASE}
ARG HILUM_CODE_REVISION=unknown
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin serve \
    && mkdir -p /run/ts /releases && chown 10001 /run/ts
COPY --from=build /opt/venv /opt/venv
COPY docker/serve/launch.py docker/serve/healthcheck.py /app/
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    LOG_LOCATION=/tmp/logs METRICS_LOCATION=/tmp/logs \
    ORT_DISABLE_TELEMETRY=1 GX_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 DVC_NO_ANALYTICS=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HILUM_CODE_REVISION=${HILUM_CODE_REVISION}
USER 10001
# Keys, settings and model store are written here; the root file system may be read-only.
WORKDIR /run/ts
EXPOSE 8080 8082
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "/app/healthcheck.py"]
ENTRYPOINT ["python", "/app/launch.py"]
