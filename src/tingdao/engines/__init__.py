"""Everything that runs a speech model. Model runtimes are imported only here, and only when one is built."""
