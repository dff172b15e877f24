"""The data stage, from the YAML's dataset entries to folders of token ids."""
