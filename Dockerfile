# Ray and segray in one image, for cluster.yaml and kuberay.yaml:
#   docker build -t REGISTRY/segray:0.1 .
# Head and workers must have the same versions, so both use this image; it runs on machines without a GPU too.
#
# A tag may be moved to another image. Pin the base before you publish yours; `python tools/pinned_image.py` refuses a tag:
#   docker buildx imagetools inspect --format '{{.Manifest.Digest}}' rayproject/ray:2.60.0-py311-gpu
#   docker build --build-arg RAY_IMAGE=rayproject/ray:2.60.0-py311-gpu@sha256:DIGEST -t REGISTRY/segray:0.1 .
ARG RAY_IMAGE=rayproject/ray:2.60.0-py311-gpu
FROM ${RAY_IMAGE}

COPY --chown=ray:users . /home/ray/segray
RUN pip install --no-cache-dir "/home/ray/segray[segformer,tune,s3,gcs]" && rm -rf /home/ray/segray

# A cluster without a token does not start.
ENV RAY_AUTH_MODE=token
# By number, so that Kubernetes can tell that it is not root.
USER 1000
WORKDIR /home/ray
