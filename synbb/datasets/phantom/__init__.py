"""A phantom: a seeded synthetic ssTEM volume of any shape, with synapse labels.

``spec`` says what to make; ``hashing`` and ``fields`` draw random numbers by position; ``neurites`` packs the
tissue; ``structures`` places organelles and synapses; ``render`` draws a box of it; ``imaging`` adds what microscope
and knife do; ``writer`` puts it on disk.
"""

from synbb.datasets.phantom.render import Block, render
from synbb.datasets.phantom.spec import PhantomSpec, parse_triple
from synbb.datasets.phantom.writer import TISSUE, write_phantom

__all__ = ["TISSUE", "Block", "PhantomSpec", "parse_triple", "render", "write_phantom"]
