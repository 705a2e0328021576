"""The whole loop on one machine: train, serve, shift, alarm, retrain, canary, promotion, and a page that tells it.

`story.run_loop` reads top to bottom; `material` are the rows, `parts` the processes, `stream` the clients, `page` the
timeline.
"""
