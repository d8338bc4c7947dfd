"""``python -m mnp_plugin.cli``."""

import sys

from mnp_plugin.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
