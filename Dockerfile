# Ray and segray in one image, for cluster.yaml and kuberay.yaml:
#   docker build -t REGISTRY/segray:0.1 .
# Head and workers must have the same versions, so both use this image; it runs on machines without a GPU too.
ARG RAY_IMAGE=rayproject/ray:2.60.0-py311-gpu
FROM ${RAY_IMAGE}

COPY --chown=ray:users . /home/ray/segray
RUN pip install --no-cache-dir "/home/ray/segray[segformer,tune,s3,gcs]" && rm -rf /home/ray/segray

# A cluster without a token does not start.
ENV RAY_AUTH_MODE=token
USER ray
WORKDIR /home/ray
