# docker build -t fedkd . && docker run --rm -v "$PWD:/work" fedkd run digits
# All extras. --build-arg TORCH_INDEX=URL takes PyTorch from another package index: one of builds for CPUs alone makes
# the image some gigabytes smaller.
FROM python:3.12-slim

ARG TORCH_INDEX=
WORKDIR /src
COPY constraints.txt ./
RUN version=$(sed -n 's/^torch==//p' constraints.txt) \
    && pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$version"
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[all]' && rm -rf /src/*

# What a run writes belongs to whom --user "$(id -u):$(id -g)" says.
ENV FEDKD_CACHE=/tmp/fedkd-cache MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
WORKDIR /work
ENTRYPOINT ["fedkd"]
