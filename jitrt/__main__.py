"""`python -m jitrt`, for an environment whose scripts are not on the path."""

import sys

from jitrt.cli import main

sys.exit(main())
