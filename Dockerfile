# The router: r1-serve alone, with traces and `r1-serve model`; no vLLM, torch or Ray.
# docs/docker.md tells how to build it, pin its base and run it.
#
#     docker build -t r1-serve:0.1.0 .

# Python 3.11 is what the tests run with. For a build that can be repeated give the base's digest:
# --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS wheel
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/
RUN ["python", "-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--requirement=requirements/build.txt"]
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY benchmarks benchmarks
COPY serve serve
RUN ["python", "-m", "hatchling", "build", "--target=wheel", "--directory=/wheels"]

# The list is complete, so nothing is resolved (docs/decisions/0001), and there is a wheel for each of
# it, so nothing is compiled. The environment has no pip of its own.
FROM ${PYTHON_IMAGE} AS environment
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN ["python", "-m", "venv", "--without-pip", "/opt/r1-serve"]
COPY requirements/image.txt /tmp/
RUN ["python", "-m", "pip", "--python=/opt/r1-serve", "install", "--no-deps", "--only-binary=:all:", "--requirement=/tmp/image.txt"]
COPY --from=wheel /wheels /wheels
RUN python -m pip --python=/opt/r1-serve install --no-deps --no-index /wheels/*.whl

FROM ${PYTHON_IMAGE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="r1-serve" \
      org.opencontainers.image.description="Reasoning-aware, OpenAI-compatible router over vLLM" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# The two folders belong to the user, so that fresh named volumes mounted there do.
RUN python -m pip uninstall --yes --root-user-action=ignore pip setuptools wheel \
    && groupadd --gid 1000 r1 \
    && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin r1 \
    && install --directory --owner=r1 --group=r1 /models /keys
COPY --from=environment /opt/r1-serve /opt/r1-serve
# Only /tmp is written, so the root file system may be read-only.
ENV PATH=/opt/r1-serve/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000:1000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h, sys; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["r1-serve"]
CMD ["--help"]
