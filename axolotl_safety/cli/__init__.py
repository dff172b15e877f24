"""Commands that ``axolotl`` gains through the ``axolotl.cli_commands`` entry point; each module holds one."""
