"""Long random histories: ``python -m tests.gateway.model``."""

import sys

from tests.gateway.model.histories import main

sys.exit(main())
