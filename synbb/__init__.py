"""Find every synapse in electron microscopy volumes with networks pruned by Budgeted Broadcast."""

__version__ = "0.1.0"
