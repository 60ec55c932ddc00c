"""``python -m segdistill``: the command ``segdistill``, for instance under torchrun."""

import sys

from segdistill.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
