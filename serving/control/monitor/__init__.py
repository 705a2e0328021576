"""The always-on monitor: takes the logger's events and corrections, tells Prometheus what it sees by version."""
