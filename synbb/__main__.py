"""``python -m synbb`` is ``synbb``."""

from synbb.cli.entry import main

if __name__ == "__main__":
    main()
