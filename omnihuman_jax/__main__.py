"""`python -m omnihuman_jax VERB …`: the same as the command `omnihuman`."""

import sys

from omnihuman_jax.cli import main

sys.exit(main())
