"""The predictor's own Prometheus metrics, for those who scrape it. Labels are bounded: never a code or a text."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "hs_predictor_requests", "Requests by protocol (v1, v2, grpc), verb and HTTP status.", ["protocol", "verb", "code"]
)
SECONDS = Histogram(
    "hs_predictor_request_seconds",
    "From the whole request read to its answer.",
    ["protocol", "verb"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
ANSWERS = Counter("hs_predictor_answers", "Answers by status.", ["status"])
WAITING = Gauge(
    "hs_predictor_waiting_instances", "Instances accepted and not yet answered; one to explain counts as its texts."
)
MODEL = Gauge("hs_predictor_model_info", "Always 1; which model answers.", ["name", "version", "edition", "kind"])
START = Gauge("hs_predictor_start_seconds", "From process start to listening.")
