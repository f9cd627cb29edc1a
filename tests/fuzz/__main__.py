"""``python -m tests.fuzz``: see README.md in this folder."""

import sys
from pathlib import Path

# As pytest has it (pyproject.toml): tests import each other from this folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.fuzz.cli import main

if __name__ == "__main__":
    sys.exit(main())
