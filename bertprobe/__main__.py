"""`python -m bertprobe` is `bertprobe`."""

from bertprobe.cli import main

if __name__ == "__main__":
    main()
