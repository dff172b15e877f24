"""OpenAI-compatible servers: where they are, how they are asked, waited for and given up. For judges and engines."""
