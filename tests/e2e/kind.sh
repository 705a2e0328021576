#!/usr/bin/env bash
# On a cluster that `make kind-up` made and images that `make push` left in its registry: install hscode, train by Kubeflow
# Pipelines on the shipped sample, and ask the version that came of it. Needs REGISTRY and TAG; ends with 0 when all worked.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${REGISTRY:?the registry that the images were pushed to}" "${TAG:?the tag of the images}"
namespace=${NAMESPACE:-hscode} patience=${PATIENCE:-600s} work=$(mktemp -d)
hscode=${HSCODE:-.venv/bin/hscode}
forwards=()
finish() {
  for pid in "${forwards[@]}"; do kill "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT

manifests/platform/secrets
# The overlay as it is, with the images of this commit; the training image is a setting, which `images:` does not reach.
overlay=$(realpath --relative-to="$work" manifests/overlays/kind)
{
  echo "resources: [$overlay]"
  echo "images:"
  for image in serving control mlflow; do
    echo "  - {name: localhost:5001/hscode/$image, newName: $REGISTRY/hscode/$image, newTag: \"$TAG\"}"
  done
  echo "configMapGenerator:"
  echo "  - {name: hscode-settings, namespace: hscode, behavior: merge, literals: [HSCODE__KFP__IMAGE=$REGISTRY/hscode/training:$TAG]}"
} >"$work/kustomization.yaml"
kubectl kustomize --load-restrictor=LoadRestrictionsNone "$work" | kubectl apply --server-side --force-conflicts -f -
kubectl apply --server-side -k manifests/overlays/kind-kubeflow
kubectl --namespace "$namespace" wait job/hscode-migrations --for=condition=Complete --timeout="$patience"
kubectl --namespace "$namespace" wait deployment --all --for=condition=Available --timeout="$patience"

forwarded() { # forwarded NAMESPACE SERVICE LOCAL:REMOTE
  local log="$work/$2.log" pid
  kubectl --namespace "$1" port-forward "service/$2" "$3" >"$log" 2>&1 &
  pid=$!
  forwards+=("$pid")
  until grep -q Forwarding "$log"; do
    kill -0 "$pid" || { cat "$log"; exit 1; }
    sleep 1
  done
}

forwarded kubeflow ml-pipeline 8888:8888
export HSCODE__KFP__ENDPOINT=http://localhost:8888
"$hscode" submit --wait --timeout 3600 --config config/quick.yaml --set "kfp.image=$REGISTRY/hscode/training:$TAG" \
  --set "registry.uri=http://hscode-mlflow.$namespace" --set "deploy.target=kserve:$namespace"

kubectl --namespace "$namespace" wait inferenceservice/hscode --for=condition=Ready --timeout="$patience"
host=$(kubectl --namespace "$namespace" get inferenceservice hscode --output jsonpath='{.status.url}')
forwarded kourier-system kourier 8081:80
answer=$(curl --silent --show-error --fail --max-time 120 --header "Host: ${host#http*://}" \
  --data '{"instances": ["ladies cotton t-shirt"]}' http://localhost:8081/v1/models/hscode:predict)
echo "$answer"
grep -q '"predictions"' <<<"$answer"
"$hscode" doctor --cluster "$namespace"
