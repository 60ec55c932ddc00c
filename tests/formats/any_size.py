"""The formats whose files take images of any size, and whose packages are here: the shared tests try each of them."""

from importlib.util import find_spec

from segdistill.formats import FORMATS

#: How their files end, by their names.
SUFFIXES = {name: kind.suffix for name, kind in FORMATS.items() if not kind.fixed and all(map(find_spec, kind.needs))}
