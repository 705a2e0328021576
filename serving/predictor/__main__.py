"""``python -m serving.predictor --model-dir BUNDLE --model-name hscode --http-port N --grpc-port M``."""

import sys


def main() -> int:
    """Load the bundle, serve it, drain at SIGTERM. Exit codes: 0 ended, 2 wrong use or a bundle that is none."""
    import logging
    import os
    import signal

    # As PID 1 of a container the default of SIGTERM is to ignore it.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    from models.errors import UserError
    from serving.predictor import lean, options

    chosen = options.parse()
    logging.basicConfig(
        level=os.environ.get("HSCODE_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    lean.install(grpc=chosen.grpc_port >= 0)
    try:
        from serving.predictor.start import serve

        serve(chosen)
    except UserError as error:
        sys.stderr.write(f"predictor: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
