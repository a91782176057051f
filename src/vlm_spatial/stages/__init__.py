"""The stages of the workflow, one module each."""

import gc
import sys

# A stage is being started, not imported (Python's documentation of -m). Looking for garbage again and again among what modules hold,
# and there is none, takes a fifth of their import; `run_stage` begins to look.
if sys.argv[0] == "-m":
    gc.disable()
