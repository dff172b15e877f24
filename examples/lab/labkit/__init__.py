"""How the laboratory's data, models and figures are made."""
