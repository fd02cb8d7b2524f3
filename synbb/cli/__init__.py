"""The ``synbb`` command, one file a subcommand. Floor 4."""
