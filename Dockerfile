# mitmesh in a container: the proxy, the control program and the article's server, by the command that is given.
#   docker build -t mitmesh . && docker run --rm mitmesh mitmesh --help
FROM python:3.13-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY addons addons
COPY control control
# The build backend is the pinned one too, hence no isolation.
RUN pip install --no-cache-dir --constraint constraints.txt hatchling \
 && pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:3.13-slim-bookworm
RUN useradd --system --create-home --uid 10001 mitmesh
COPY --from=build /wheels/ /src/constraints.txt /tmp/mitmesh/
RUN pip install --no-cache-dir --constraint /tmp/mitmesh/constraints.txt /tmp/mitmesh/*.whl
ENV PYTHONUNBUFFERED=1
USER mitmesh
WORKDIR /home/mitmesh
CMD ["mitmesh", "--help"]
