# The image of the Flex Template's launcher, which builds the job graph and submits it to Dataflow.
#   docker build -f beam_jobs/dataflow/launcher.Dockerfile -t REGISTRY/tfdare-launcher .
FROM gcr.io/dataflow-templates-base/python311-template-launcher-base:latest
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/main.py
WORKDIR /template
COPY constraints.txt setup.py pyproject.toml README.md LICENSE ./
COPY tfdare tfdare
COPY beam_jobs beam_jobs
COPY serving serving
COPY beam_jobs/dataflow/main.py main.py
RUN pip install --no-cache-dir "apache-beam[gcp]==2.77.0" pyarrow fastavro scipy google-crc32c \
    && pip install --no-cache-dir --no-deps .
