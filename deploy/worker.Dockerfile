# The worker's image. PIP_OPTIONS can name another index, such as PyTorch's with its smaller CPU wheels.
FROM python:3.12-slim AS build
ARG PIP_OPTIONS=""
WORKDIR /src
RUN python -m venv /venv
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY consumers consumers
COPY model model
COPY worker worker
RUN /venv/bin/pip install --no-cache-dir ${PIP_OPTIONS} --constraint constraints.txt .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home nametag
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NAMETAG_SERVER__HOST=0.0.0.0
USER 10001
WORKDIR /tmp
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/healthz', timeout=2)"]
# As an array: the worker itself is process 1, and SIGTERM reaches it.
ENTRYPOINT ["nametag"]
CMD ["worker"]
