# The service alone: runtime, extra `serve`, embedded bundle; no compiler, no torch, no root.
#
#   docker build -t im2sp .
#   printf %s "$(openssl rand -hex 24)" > token && chmod 444 token
#   docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges --memory 3g \
#     -v "$PWD/token:/run/secrets/im2sp:ro" -p 127.0.0.1:8000:8000 im2sp
#
# Inside the container it must listen on every address, so it wants a token; the page asks for it.

FROM python:3.11-slim AS build
COPY pyproject.toml README.md LICENSE LICENSE-WEIGHTS.md /source/
COPY src /source/src
RUN python -m venv /opt/im2sp && /opt/im2sp/bin/pip install --no-cache-dir '/source[serve]' \
    && /opt/im2sp/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim
RUN useradd --system --no-create-home --shell /usr/sbin/nologin im2sp
COPY --from=build /opt/im2sp /opt/im2sp
USER im2sp
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["/opt/im2sp/bin/python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["/opt/im2sp/bin/im2sp", "serve", "--host", "0.0.0.0", "--token-file", "/run/secrets/im2sp"]
