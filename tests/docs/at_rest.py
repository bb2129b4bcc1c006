"""Exits with 0 when `lockgate lag --json`, read from standard input, shows that nothing is left to do."""

import json
import sys


def left(node: object) -> int:
    """The sum of every `not_done` and `retrying` in whatever shape they come."""
    if isinstance(node, dict):
        own = sum(node[name] for name in ("not_done", "retrying") if isinstance(node.get(name), int))
        return own or sum(left(value) for value in node.values())
    if isinstance(node, list):
        return sum(left(value) for value in node)
    return 0


sys.exit(0 if sum(left(json.loads(line)) for line in sys.stdin if line.strip()) == 0 else 1)
