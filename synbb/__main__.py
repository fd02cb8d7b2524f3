"""``python -m synbb`` is ``synbb``."""

from synbb.cli.app import main

if __name__ == "__main__":
    main()
