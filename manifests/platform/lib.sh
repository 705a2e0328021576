# shellcheck shell=bash disable=SC2034
# What the scripts beside share: versions, saying, running (or, with DRY_RUN=1, only saying), waiting with the reason.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=versions.env
source "$here/versions.env"
CLUSTER=${CLUSTER:-hscode}
REGISTRY_PORT=${REGISTRY_PORT:-5001}
DRY_RUN=${DRY_RUN:-}

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
run() { if [ -n "$DRY_RUN" ]; then printf '%s\n' "$*"; else "$@"; fi; }
need() { [ -n "$DRY_RUN" ] || command -v "$1" >/dev/null || die "$1 is not installed: $2"; }

# apply WHAT ARGUMENTS: server-side, so that applying again changes nothing; again while webhooks and kinds still come up.
apply() {
  local what=$1 try
  shift
  say "applying $what"
  for try in 1 2 3 4 5 6; do
    run kubectl apply --server-side --force-conflicts "$@" && return 0
    say "$what is not taken yet (try $try); again in 10 s"
    sleep 10
  done
  die "$what is not taken; what kubectl said stands above"
}

# ready NAMESPACE [SECONDS]: all Deployments there are available, or why not.
ready() {
  local namespace=$1 seconds=${2:-600}
  say "waiting for the Deployments of $namespace ($seconds s at most)"
  run kubectl wait --for=condition=Available deployment --all -n "$namespace" --timeout="${seconds}s" && return 0
  say "$namespace is stuck:"
  kubectl get pods -n "$namespace" -o wide >&2 || true
  kubectl get events -n "$namespace" --field-selector type=Warning --sort-by=.lastTimestamp 2>/dev/null | tail -n 15 >&2 || true
  die "$namespace did not get ready in $seconds s; the last warnings stand above"
}
