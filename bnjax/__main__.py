"""Run the command as ``python -m bnjax``."""

from bnjax.cli import main

if __name__ == "__main__":
    main()
