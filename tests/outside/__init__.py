"""A method, an engine and a guard family as somebody outside of the package would write them (see CONTRIBUTING)."""
