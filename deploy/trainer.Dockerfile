# The trainer's image: settings and data under /data, checkpoints under /checkpoints. The stages up to `project` are the
# worker's to the letter, so that both images share their layers; PIP_OPTIONS are told there.
FROM python:3.12-slim AS dependencies
ARG PIP_OPTIONS=""
RUN python -m venv --without-pip /venv
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# Without the project itself, so that a change of its code doesn't bring torch's gigabytes anew.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && pip --python /venv/bin/python install --no-cache-dir ${PIP_OPTIONS} --constraint constraints.txt \
        --requirement requirements.txt

FROM dependencies AS project
ARG PIP_OPTIONS=""
COPY README.md LICENSE ./
COPY consumers consumers
COPY model model
COPY worker worker
# The files alone, as a layer to be laid over the dependencies'.
RUN pip --python /venv/bin/python install --no-cache-dir ${PIP_OPTIONS} --no-deps --root /layer .

FROM python:3.12-slim
# A volume takes the owner of the folder that it first covers.
RUN groupadd --system --gid 10001 nametag \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin nametag \
    && mkdir /checkpoints /data && chown nametag:nametag /checkpoints
COPY --from=dependencies /venv /venv
COPY --from=project /layer/ /
COPY deploy/train_and_switch.py /opt/
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /checkpoints
# A training ends by itself, and its exit status tells how: there is nothing to ask meanwhile.
HEALTHCHECK NONE
ENTRYPOINT ["nametag"]
CMD ["train", "/data/train.toml"]
