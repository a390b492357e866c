"""Transfer: what a model has learned on one task, carried to another."""

__all__: list[str] = []
