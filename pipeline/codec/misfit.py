"""Names the field that does not fit its schema, never its content: errors travel further than data may."""

from typing import Any

from fastavro import validate


def misfit(schema: Any, value: Any, path: str = "") -> str | None:
    """`field.sub: str does not fit long`, or None when everything fits. `schema` is a parsed one."""
    if isinstance(schema, dict) and schema["type"] == "record" and isinstance(value, dict):
        for field in schema["fields"]:
            if field["name"] not in value and "default" in field:
                continue
            found = misfit(field["type"], value.get(field["name"]), f"{path}.{field['name']}".lstrip("."))
            if found:
                return found
        return None
    if isinstance(schema, dict) and schema["type"] == "array" and isinstance(value, list):
        found_in = (misfit(schema["items"], item, f"{path}[{i}]") for i, item in enumerate(value))
        return next((found for found in found_in if found), None)
    if isinstance(schema, list) and isinstance(value, dict):
        return next((misfit(part, value, path) for part in schema if isinstance(part, dict)), None)
    return None if _fits(schema, value) else f"{path}: {type(value).__name__} does not fit {_say(schema)}"


def _fits(schema: Any, value: Any) -> bool:
    if isinstance(value, str) and not _is_utf8(value):
        return False
    return bool(validate(value, schema, raise_errors=False))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _say(schema: Any) -> str:
    if isinstance(schema, list):
        return " or ".join(_say(part) for part in schema)
    if isinstance(schema, dict):
        return str(schema.get("name", schema["type"]))
    return str(schema)
