# Stands in for docker.io's postgres on the test cluster: Debian's package (its version, not the tag's) and of the official
# entrypoint what manifests/components/postgres rests on.
FROM python:3.11-slim
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-15 >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/* \
 && usermod -u 999 postgres && groupmod -g 999 postgres && chgrp postgres /var/run/postgresql
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin
COPY postgres-entrypoint /usr/local/bin/
STOPSIGNAL SIGINT
USER 999:999
ENTRYPOINT ["sh", "/usr/local/bin/postgres-entrypoint"]
