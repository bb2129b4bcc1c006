"""The engine without a broker: single parts, and models of what surrounds them."""
