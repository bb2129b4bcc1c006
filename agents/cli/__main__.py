"""`python -m agents.cli` is `lockgate`: how a worker starts its children."""

from agents.cli import main

main(prog_name="lockgate")
