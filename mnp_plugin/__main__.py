"""``python -m mnp_plugin`` is ``mnp-bench``."""

import sys

from mnp_plugin.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
