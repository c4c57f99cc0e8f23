"""Commands of the command line that have a module of their own; `tingdao.cli` puts them together."""
