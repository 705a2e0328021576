"""Capacity on paper: a trace of requests, Knative's autoscaler, pods that start and queue; what it gives and costs.

`traces` makes or reads the arrivals, `autoscaler` decides as Knative does, `simulation` lets the requests through,
`choice` prices the outcomes and takes the cheapest that keeps the promise, `measure` times a bundle on this machine.
"""
