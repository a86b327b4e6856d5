"""`python -m vlm_neurons`: the command line."""

import sys

from vlm_neurons.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
