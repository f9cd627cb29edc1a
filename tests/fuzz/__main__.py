"""``python -m tests.fuzz``: see README.md in this folder."""

import sys
from pathlib import Path

# pytest adds this folder to the path, too (pyproject.toml): tests import each other from it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.fuzz.cli import main

if __name__ == "__main__":
    sys.exit(main())
