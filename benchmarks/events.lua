-- wrk script: the logger's events, each request followed by its response, bodies from the file HS_EVENTS (two lines a pair);
-- prints one line of JSON at the end.
local bodies, at, run = {}, 0, os.getenv("HS_RUN")
for line in io.lines(os.getenv("HS_EVENTS")) do bodies[#bodies + 1] = line end
local kinds = {"org.kubeflow.serving.inference.request", "org.kubeflow.serving.inference.response"}
local headers = {
  ["Content-Type"] = "application/json", ["ce-specversion"] = "1.0", ["ce-source"] = "http://localhost:9081/",
  ["ce-inferenceservicename"] = "hscode", ["ce-namespace"] = "shop", ["ce-component"] = "predictor",
  ["ce-endpoint"] = "", ["ce-metadata"] = "{}", ["ce-annotations"] = '{"hscode/version":"3"}',
}
function request()
  at = at + 1
  headers["ce-id"] = run .. "-" .. math.floor((at - 1) / 2)
  headers["ce-type"] = kinds[(at - 1) % 2 + 1]
  return wrk.format("POST", nil, headers, bodies[(at - 1) % #bodies + 1])
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %f, "p50": %f, "p95": %f, "p99": %f, "refused": %d, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3,
    latency:percentile(99) / 1e3, e.status, e.connect + e.read + e.write + e.timeout))
end
