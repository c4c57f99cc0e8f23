"""Everything that runs a speech model. Model runtimes are imported only here, and only when one is built."""

import os

# Threads that spin while they wait for each other take the cores from whatever runs beside them, decoders and voice
# detection among them, and then wait all the longer: with one other process busy on two cores, eight clips took 12 s
# with threads that spin a little, up to 150 s with torch's default, and 7 s with threads that sleep. The variable is
# read once, when the first runtime with OpenMP is imported, so it stands here, before them all.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
