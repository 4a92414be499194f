# The trainer's image: settings and data under /data, checkpoints under /checkpoints.
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
# A volume takes the owner of the folder that it first covers.
RUN useradd --system --uid 10001 --no-create-home nametag \
    && mkdir /checkpoints /data && chown nametag /checkpoints
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /checkpoints
ENTRYPOINT ["nametag"]
CMD ["train", "/data/train.toml"]
