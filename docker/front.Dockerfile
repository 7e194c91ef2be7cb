# front: the maintained front on mounted releases; no torch, no Java (docs/decisions/0007-images.md)
#   docker build -f docker/front.Dockerfile --build-arg HILUM_CODE_REVISION=$(git rev-parse --short=12 HEAD) \
#     -t hilum-python-front:0.1.0 .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges -p 127.0.0.1:8443:8443 \
#     -v RELEASES:/releases:ro -v TOKENS:/etc/hilum/tokens:ro hilum-python-front:0.1.0
# The classic builder is enough; BuildKit is not needed.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# extra-ca.crt is for networks that inspect TLS; it stays in this stage.
COPY requirements.lock docker/front/requirements.txt extra-ca.crt* /b/
RUN python3 -m venv /opt/venv
COPY pyproject.toml README.md /b/hilum/
COPY src /b/hilum/src
COPY components /b/hilum/components
COPY pipelines /b/hilum/pipelines
COPY serving /b/hilum/serving
# The lock is a constraint: this image gets what it needs, in the locked versions, and nothing else.
RUN set -eu; if [ -s /b/extra-ca.crt ]; then export PIP_CERT=/b/extra-ca.crt; fi; \
    /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint /b/requirements.lock \
      --requirement /b/requirements.txt /b/hilum; \
    find /opt/venv -name __pycache__ -prune -exec rm -rf {} +

FROM ${BASE}
ARG HILUM_CODE_REVISION=unknown
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin serve \
    && mkdir -p /releases /etc/hilum/tokens
COPY --from=build /opt/venv /opt/venv
COPY docker/front/launch.py docker/front/healthcheck.py /app/
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 GX_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 DVC_NO_ANALYTICS=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HILUM_CODE_REVISION=${HILUM_CODE_REVISION}
USER 10001
# Nothing is written but to /tmp; the root file system may be read-only.
WORKDIR /tmp
EXPOSE 8443 8082
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "/app/healthcheck.py"]
ENTRYPOINT ["python", "/app/launch.py"]
