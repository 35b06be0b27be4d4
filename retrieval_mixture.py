"""Where the script `mixture` starts: under a name that no user's folder has. `mixture/__main__.py` does the rest."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

# By its place: a user's own `mixture` may come first on the path.
_spec = spec_from_file_location("mixture.__main__", Path(__file__).resolve().parent / "mixture" / "__main__.py")
assert _spec is not None
assert _spec.loader is not None
_start = module_from_spec(_spec)
_spec.loader.exec_module(_start)
main = _start.main
