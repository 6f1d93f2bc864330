# holdfast on processors: docker build -t holdfast . && docker run --rm -v "$PWD:/work" holdfast gate before.csv after.csv
# --build-arg EXTRAS=remote installs other extras, EXTRAS= none. Torch comes from INDEX, which has builds without CUDA.
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
ARG EXTRAS=train,plot
ARG INDEX=https://download.pytorch.org/whl/cpu
RUN python -m pip wheel --quiet --no-cache-dir --no-deps --wheel-dir /dist .
RUN python -m venv /opt/holdfast
RUN /opt/holdfast/bin/python -m pip install --quiet --no-cache-dir --constraint constraints.txt \
    ${INDEX:+--extra-index-url "$INDEX"} "$(echo /dist/*.whl)${EXTRAS:+[$EXTRAS]}"

FROM python:3.12-slim-bookworm
RUN useradd --create-home --uid 1000 holdfast && install --directory --owner holdfast /work
COPY --from=build /opt/holdfast /opt/holdfast
ENV PATH=/opt/holdfast/bin:$PATH
USER holdfast
WORKDIR /work
ENTRYPOINT ["holdfast"]
CMD ["--help"]
