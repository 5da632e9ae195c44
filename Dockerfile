# Two images of one file: `server` holds MLflow and Prefect and no torch, `worker` holds the whole project.
# PIP_OPTIONS can name another index, for example PyTorch's for CPUs, whose torch is a tenth of the size.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    MLFLOW_DISABLE_TELEMETRY=true
# Volumes mounted at /data get its owner.
RUN useradd --uid 10001 --create-home aemodels && install -d -o aemodels -g aemodels /data

FROM base AS build
RUN python3 -m venv /opt/venv
WORKDIR /build
COPY constraints.txt ./
ARG PIP_OPTIONS=""

FROM build AS server-packages
RUN pip install --no-cache-dir --no-compile --constraint constraints.txt $PIP_OPTIONS \
    "mlflow[auth]" prefect fastapi sqlalchemy "psycopg[binary]" "boto3>=1.40,<2"

FROM base AS server
COPY --from=server-packages /opt/venv /opt/venv
USER aemodels
WORKDIR /home/aemodels

FROM build AS worker-packages
COPY pyproject.toml ./
# The dependencies alone, so that a change of the code does not install them again.
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > requirements.txt && \
    pip install --no-cache-dir --no-compile --constraint constraints.txt $PIP_OPTIONS --requirement requirements.txt \
    "boto3>=1.40,<2" "setuptools>=77"
COPY README.md LICENSE prefect.yaml /app/
COPY pyproject.toml /app/
COPY aemodels /app/aemodels
COPY flows /app/flows
RUN pip install --no-cache-dir --no-compile --no-deps --no-build-isolation --editable /app

FROM base AS worker
COPY --from=worker-packages /opt/venv /opt/venv
COPY --from=worker-packages /app /app
ENV AEMODELS_STORE=/data/store AEMODELS_CACHE=/data/cache AEMODELS_DATA=/sets OMP_WAIT_POLICY=passive
RUN install -d -o aemodels -g aemodels /sets
USER aemodels
WORKDIR /home/aemodels
