# The images of nametag, by --target: `cpu` (the default) and `cuda` are the worker, `trainer` trains on either.
#
# PIP_OPTIONS are options of pip: with PyTorch's index of CPU wheels, named as an --extra-index-url, an image for CPUs is
# about 1.2 GB instead of 5.1 (reckoned: less NVIDIA's 3.4 and torch's own CUDA part of 0.55). PyPI's wheel of torch can't
# be had so small: its libraries are linked against NVIDIA's, and without them `import torch` fails on a CPU too.
#
# EXTRAS are extras of pyproject.toml, parted by spaces. `tracing` adds 10 MB, and without it `trace = true` is refused.
FROM python:3.12-slim AS dependencies
ARG PIP_OPTIONS=""
ARG EXTRAS="tracing"
RUN python -m venv --without-pip /venv
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# Without the project itself, so that a change of its code doesn't bring torch's gigabytes anew. And without Triton, a
# gigabyte for torch.compile, which nothing here calls, and static libraries.
RUN python -c "import sys, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*p['dependencies'], *(each for e in sys.argv[1:] for each in p['optional-dependencies'][e]), sep='\n')" \
        ${EXTRAS} > requirements.txt \
    && pip --python /venv/bin/python install --no-cache-dir ${PIP_OPTIONS} --constraint constraints.txt \
        --requirement requirements.txt \
    && pip --python /venv/bin/python uninstall --yes triton \
    && find /venv -name '*.a' -delete

FROM dependencies AS project
ARG PIP_OPTIONS=""
COPY README.md LICENSE ./
COPY consumers consumers
COPY model model
COPY worker worker
# The files alone, as a layer to be laid over the dependencies'.
RUN pip --python /venv/bin/python install --no-cache-dir ${PIP_OPTIONS} --no-deps --root /layer .

FROM python:3.12-slim AS nametag
# A volume takes the owner of the folder that it first covers, and the worker may be there before the trainer.
RUN groupadd --system --gid 10001 nametag \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin nametag \
    && mkdir /checkpoints && chown nametag:nametag /checkpoints
COPY --from=dependencies /venv /venv
COPY --from=project /layer/ /
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# A number, for Kubernetes can't tell whether a name is root's.
USER 10001:10001
# As an array: nametag itself gets SIGTERM, and no shell in front of it.
ENTRYPOINT ["nametag"]

FROM nametag AS trainer
# Beside it /data, for settings and data.
COPY deploy/train_and_switch.py /opt/
WORKDIR /checkpoints
# A training ends by itself, and its exit status tells how: there is nothing to ask meanwhile.
HEALTHCHECK NONE
CMD ["train", "/data/train.toml"]

FROM nametag AS cuda
ENV NAMETAG_DEVICE=cuda \
    NAMETAG_SERVER__HOST=0.0.0.0
WORKDIR /tmp
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/healthz', timeout=3)"]
CMD ["worker"]

FROM cuda AS cpu
ENV NAMETAG_DEVICE=cpu \
    NVIDIA_VISIBLE_DEVICES=void
