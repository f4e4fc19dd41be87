# The image of the workers: what the jobs import, without TensorFlow.
#   docker build -f beam_jobs/dataflow/worker.Dockerfile -t REGISTRY/tfdare-worker .
# For batch_rank, whose workers load a SavedModel: --build-arg MODEL="tensorflow==2.21.0"
FROM apache/beam_python3.11_sdk:2.77.0
ARG MODEL=""
WORKDIR /opt/tfdare
COPY constraints.txt setup.py pyproject.toml README.md LICENSE ./
COPY tfdare tfdare
COPY beam_jobs beam_jobs
COPY serving serving
RUN pip install --no-cache-dir --constraint constraints.txt numpy protobuf google-crc32c pyarrow \
        fastavro scipy ${MODEL} \
    && pip install --no-cache-dir --no-deps .
