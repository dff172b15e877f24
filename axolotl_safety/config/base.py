"""Models that every section builds on: unknown keys are refused with the one that was meant, secrets stay out."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from axolotl_safety.util.errors import did_you_mean


class Strict(BaseModel):
    """A model that refuses keys that it does not know and suggests the one that was meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_unknown_key(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    hint = did_you_mean(str(key), cls.model_fields)
                    raise ValueError(
                        f"unknown key {key!r}: {hint}known keys here: {', '.join(sorted(cls.model_fields))}"
                    )
        return data

    def changed(self) -> set[str]:
        """Keys whose value is not the default.

        By value, not by who set it: Axolotl validates the section again with every default filled in.
        """
        return {key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default}


class SamplingConfig(Strict):
    """How completions are drawn; an unset value is inherited (method block, then ``safety.sampling``, then default)."""

    temperature: float | None = Field(None, ge=0, le=5, description="0 is greedy; default 0.6")
    top_p: float | None = Field(None, gt=0, le=1, description="nucleus mass kept; default 0.95")
    top_k: int | None = Field(None, ge=0, description="tokens kept, 0 keeps all; default 20 for Qwen3, else 0")
    max_new_tokens: int | None = Field(None, ge=1, description="completion length limit in tokens; default 4096")


HIDDEN = "(not shown)"
_LONGEST_NAME = 64


def _may_be_key(value: str) -> bool:
    """Anything that is no name of a variable, or looks drawn at random: small letters and digits, or no word at all."""
    digits = any(letter.isdigit() for letter in value)
    small = any(letter.islower() for letter in value)
    return (
        not (value.isascii() and value.isidentifier())
        or (digits and small)
        or (digits and "_" not in value and len(value) >= 16)
        or len(value) > _LONGEST_NAME
    )


def _hide_key(value: Any) -> Any:
    """What stands where the name of an environment variable belongs, or `HIDDEN` if it may be a key."""
    return HIDDEN if isinstance(value, str) and _may_be_key(value) else value


def _hide_credentials(value: Any) -> Any:
    """A plain http address as it is, `HIDDEN` for one with a user, a password or a query, or for no address."""
    if not isinstance(value, str):
        return value
    try:
        parts = urlsplit(value)
        plain = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return HIDDEN
    return value if plain and "@" not in parts.netloc and not parts.query and not parts.fragment else HIDDEN


class Endpoint(Strict):
    """An OpenAI-compatible server, for who asks one."""

    base_url: str | None = Field(None, description="openai: where the server is, such as http://localhost:8000/v1")
    api_key_env: str | None = Field(None, description="openai: name of the environment variable with the key")

    @model_validator(mode="before")
    @classmethod
    def _keep_secrets_out_of_messages(cls, data: Any) -> Any:
        # Before the fields are looked at, because a message about a field quotes what it was given.
        hidden = {"api_key_env": _hide_key, "base_url": _hide_credentials}
        if not isinstance(data, dict):
            return data
        return {key: hidden[key](value) if key in hidden else value for key, value in data.items()}

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, value: str | None) -> str | None:
        if value == HIDDEN:
            raise ValueError(
                "this is not the name of an environment variable and may be a key. A key never stands in the YAML: "
                "export it (export SERVER_KEY=...) and write api_key_env: SERVER_KEY"
            )
        return value

    @field_validator("base_url")
    @classmethod
    def _is_a_plain_address(cls, value: str | None) -> str | None:
        if value == HIDDEN:
            raise ValueError("write an address like http://localhost:8000/v1, without user, password, query or #")
        return value
