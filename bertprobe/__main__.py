"""`python -m bertprobe` is `bertprobe`."""

import sys


def main() -> None:
    """Runs the command line; Ctrl-C while it is still being imported ends it as it does later."""
    try:
        from bertprobe.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
